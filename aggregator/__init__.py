"""The server: admits updates, merges each exactly once, keeps the ledger, publishes versions. It never imports
torch.
"""
