"""Publishes versions as retained messages, and checks whose model line is on the broker."""
