"""From the device to the aggregator: rounds, the durable outbox, sending until the receipt."""
