"""Measurements: `python -m benchmarks NAME --json FILE`; each prints a table and writes its figures."""
