"""Writes files durably and atomically."""

import contextlib
import os
import sys
from pathlib import Path

from aggregator.enrolment.errors import EnrolmentError
from wire_contract.files.atomic_write import write_atomically, write_new_file


def make(path: Path, data: bytes, mode: int) -> None:
    """Creates a file.

    Raises:
        EnrolmentError: there is one, or it cannot be written.
    """
    try:
        write_new_file(path, data, mode=mode)
        path.chmod(mode)  # exactly: the umask has no say
    except FileExistsError:
        raise EnrolmentError(
            f"{path}: is there already and is never overwritten; move it away or give another --out"
        ) from None
    except OSError as error:
        raise EnrolmentError(f"{path}: {error.strerror}") from None
    _belong_to_the_folder(path)


def replace(path: Path, data: bytes, mode: int) -> None:
    """Replaces a file atomically: readers see either the old or the new content.

    Raises:
        EnrolmentError: it cannot be written.
    """
    try:
        write_atomically(path, data, mode=mode, sync="file and folder", before_rename=_belong_to_the_folder)
    except OSError as error:
        raise EnrolmentError(f"{path}: {error.strerror}") from None


def _belong_to_the_folder(path: Path) -> None:
    """Run by root, gives a file to the owner of its folder: the user of the broker."""
    if sys.platform != "win32":
        folder = path.parent.stat()
        if (folder.st_uid, folder.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(PermissionError):  # not root: then the file stays its maker's
                os.chown(path, folder.st_uid, folder.st_gid)
