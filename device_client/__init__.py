"""The device: keeps the newest model, learns from private data, and sends what it learned when it may."""
