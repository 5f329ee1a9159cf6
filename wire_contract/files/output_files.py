"""Files that a program overwrites repeatedly at a path given by the user: no other file is destroyed by mistake."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from wire_contract.errors import FileUnusable

_LOOKED_AT_BYTES = 8_192
"""Enough to recognise a file of ours: more than a whole health file (2,048 bytes)."""


def check_output_file(path: Path, *, flag: str, is_ours: Callable[[bytes], bool]) -> None:
    """Checks, before the first write, that `path` is free, empty, or a file that this program wrote earlier.

    Args:
        path: given by the user.
        flag: with which it was given, for messages.
        is_ours: whether the beginning of a file, at most 8 KiB and not empty, was written by this program.

    Raises:
        FileUnusable: it is another kind of file, or no file can be written there.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise FileUnusable(f"{flag} {path} is {what}; give the name of a file")
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT_BYTES)
    except FileNotFoundError:
        start = b""
    except OSError as error:
        raise FileUnusable(f"{flag} {path}: {error.strerror}; give a file in a folder that can be written") from None
    if start and not is_ours(start):
        raise FileUnusable(f"{flag} {path} is another kind of file, which would be lost; give a file of its own")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileUnusable(f"{flag} {path}: there is no folder {folder}; make it, or give another file")
    effective = os.access in os.supports_effective_ids
    for needed in (folder, path):
        if needed.exists() and not os.access(needed, os.W_OK, effective_ids=effective):
            raise FileUnusable(f"{flag} {path}: this user may not write {needed}; give another file")
