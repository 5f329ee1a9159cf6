"""What an operator runs against a live system: the doctor and the live page."""
