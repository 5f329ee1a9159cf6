"""Columns of CSV and Parquet files."""
