"""A page that shows a task live: static files, and a small program that serves them.

The page itself connects to the broker with MQTT over WebSocket (page.js and its imports). The program only serves the
files and the broker's address.
"""
