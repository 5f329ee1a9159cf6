"""Credentials of the broker's clients: a local certificate authority, passwords and the revocation list.

`roles`, `certificates` and `passwords` contain the logic (time, keys and salts are arguments), `register` what the
authority has issued, `authority` its folder, `commands` the commands. Only `certificates` and `authority` import the
cryptography library; a running aggregator never does.
"""
