"""The server: admits updates, merges them once, keeps the ledger and publishes versions. Knows no torch."""
