"""What both ends agree on: topics, messages, tensor encodings, codec and link. Knows neither program."""
