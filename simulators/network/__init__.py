"""Brokers that pip alone brings."""
