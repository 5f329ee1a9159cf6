"""From the broker to the device: manifests, deltas and chunks become the newest model."""
