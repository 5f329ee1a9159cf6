"""Telemetry of the aggregator, its devices and its broker: points for InfluxDB, or lines in a folder."""
