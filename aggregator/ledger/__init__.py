"""The durable memory of the aggregator, in SQLite."""
