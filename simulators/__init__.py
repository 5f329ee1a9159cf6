"""Everything that runs the system without a fleet of real devices: the demo, the virtual-time world, faults."""
