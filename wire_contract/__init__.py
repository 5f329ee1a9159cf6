"""What aggregator and devices agree on: topics, messages, encodings, codec and link. Imports neither program."""
