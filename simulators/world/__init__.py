"""Asynchronous federation in virtual time, with the real admission and merging."""
