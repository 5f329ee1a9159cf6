"""Files that are there whole or not at all."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from aggregator.enrolment.errors import EnrolmentError

PRIVATE, PUBLIC = 0o600, 0o644


def make(path: Path, data: bytes, mode: int) -> None:
    """A new file.

    Raises:
        EnrolmentError: there is one, or it cannot be written.
    """
    try:
        _write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), data, mode)
    except FileExistsError:
        raise EnrolmentError(
            f"{path}: is there already and is never overwritten; move it away or give another --out"
        ) from None
    except OSError as error:
        raise EnrolmentError(f"{path}: {error.strerror}") from None
    _belong_to_the_folder(path)


def replace(path: Path, data: bytes, mode: int) -> None:
    """In place of what is there, in one step: who reads it sees the old or the new.

    Raises:
        EnrolmentError: it cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        new = Path(name)
        try:
            _write(descriptor, data, mode)
            _belong_to_the_folder(new)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        if os.name != "nt":  # Windows opens no folders
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise EnrolmentError(f"{path}: {error.strerror}") from None


def _write(descriptor: int, data: bytes, mode: int) -> None:
    with os.fdopen(descriptor, "wb") as file:
        if sys.platform != "win32":  # there a file has the rights of its folder
            os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _belong_to_the_folder(path: Path) -> None:
    """Root writes for a broker that runs as somebody else: its folder says as whom."""
    if sys.platform != "win32":
        folder = path.parent.stat()
        if (folder.st_uid, folder.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(PermissionError):  # not root: then the file stays its maker's
                os.chown(path, folder.st_uid, folder.st_gid)
