"""What the aggregator keeps retained on the broker, and whether the line there is its own."""
