"""The aggregator's durable state, in SQLite."""
