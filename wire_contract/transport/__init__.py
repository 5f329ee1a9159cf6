"""Below an MQTT connection: opening sockets, waiting for them, reconnecting, and why TLS failed."""
