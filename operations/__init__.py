"""What an operator runs against a live system: the doctor (broker checks) and the live page."""
