"""Training on the device: losses, networks, the training loop, AsyncFedKD and FedKD."""
