"""Readers of data as people have it; `docs/data.md` shows how to use them.

Each gives the examples of a task from files: windows of time series (CSV, Parquet), of WFDB records, and images.
"""
