"""Checks from outside that every update was merged exactly once."""
