"""The device: keeps the newest model, trains on private data, and sends updates when its owner's policy allows it."""
