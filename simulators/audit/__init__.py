"""Whether every update was merged exactly once, seen from outside."""
