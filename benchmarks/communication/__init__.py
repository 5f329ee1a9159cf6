"""Bytes on the wire against accuracy, for several training methods."""
