"""Permissions of files, as octal modes, and how to open a file that only its owner may read."""

import contextlib
import os

PRIVATE = 0o600
"""For keys, passwords, and what devices sent or learned: the owner only."""
PUBLIC = 0o644


def private_opener(path: str, flags: int) -> int:
    """An `opener` for the built-in `open`: makes the file private, even if it existed with other permissions.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, flags, PRIVATE)
    with contextlib.suppress(OSError, AttributeError):  # the file of another user, or a system without fchmod
        os.fchmod(descriptor, PRIVATE)
    return descriptor
