"""Crops of mammograms: the protocol of the public code, and what it says of further patients."""
