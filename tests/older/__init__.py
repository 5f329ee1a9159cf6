"""An older program of ours, as a wheel; `program.py` unpacks it."""
