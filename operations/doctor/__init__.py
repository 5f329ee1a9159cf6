"""Looks at somebody's broker: does it have what the contract needs, and which setting fixes what is missing?"""
