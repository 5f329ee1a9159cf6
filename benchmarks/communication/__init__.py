"""Bytes on the wire against accuracy, for several ways of learning."""
