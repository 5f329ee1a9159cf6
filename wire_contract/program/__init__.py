"""What every program needs: command line, settings from flags and environment, clock, health."""
