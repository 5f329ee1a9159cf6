"""When a device may train and upload: power, network, hours, approval."""
