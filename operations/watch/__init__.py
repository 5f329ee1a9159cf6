"""One page that shows a task live: static files, and the small program that serves them.

The page speaks MQTT over WebSocket to the broker by itself (page.js and what it imports); the program here only hands
it the files and says where the broker is.
"""
