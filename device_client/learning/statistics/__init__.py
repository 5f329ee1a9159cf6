"""Running statistics that stay at home: those of a device, and those that are estimated where there are none."""
