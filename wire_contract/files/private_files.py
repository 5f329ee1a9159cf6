"""Files that only their owner may read: what devices sent, and what was learned from them."""

import contextlib
import os

PRIVATE = 0o600


def private_opener(path: str, flags: int) -> int:
    """As `opener` of the built-in `open`: the file belongs to its owner alone, also when it was there before.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, flags, PRIVATE)
    with contextlib.suppress(OSError, AttributeError):  # somebody else's file, or a system without such rights
        os.fchmod(descriptor, PRIVATE)
    return descriptor
