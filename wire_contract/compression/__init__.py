"""A sender's choice of encodings. A receiver needs none of this."""
