"""What telemetry costs the aggregator."""
