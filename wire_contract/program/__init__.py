"""What every program has: its command line, settings from flags and environment, clock and health."""
