"""The socket below an MQTT connection: dialling, waiting, reconnecting, and why TLS failed."""
