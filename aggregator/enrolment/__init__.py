"""Who may speak to the broker as whom: a local certificate authority, password entries and the revocation list.

`roles` and `certificates` and `passwords` decide (time, keys and salts come in), `register` is what the authority
remembers, `authority` the folder it lives in, `commands` what a person types. Only `certificates` and `authority`
import the cryptography library; a running aggregator never does.
"""
