"""The connection to a broker as the programs see it: over MQTT, or in memory for tests."""
