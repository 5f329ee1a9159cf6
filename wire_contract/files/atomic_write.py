"""Files that appear complete or not at all: written to a temporary file in the same folder, flushed, then renamed.

A reader sees the old content or the new one, never a part. If a write fails, the target stays as it was and the
temporary file is removed. A process that is killed may leave a temporary file behind.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from wire_contract.files.permissions import PRIVATE

Sync = Literal["nothing", "file", "file and folder"]
"""What is flushed to the disk. "nothing": after a power cut the file may be empty; enough for what is written again
soon. "file": old or new content, also after a power cut. "file and folder": the new content, once the call returns."""


def write_atomically(
    path: Path,
    content: bytes,
    *,
    mode: int | None = None,
    sync: Sync = "file",
    temporary: Path | None = None,
    before_rename: Callable[[Path], object] = lambda _: None,
) -> None:
    """Replaces `path` with a file of this content.

    Args:
        path: of the file; its folder exists.
        content: of the file.
        mode: its permissions; None: what the umask leaves of 0666.
        sync: what is flushed to the disk.
        temporary: in the same folder, for a single writer that rewrites its file often, so that no files pile up when
            it is killed; None: a new hidden file, so that several processes may write at once.
        before_rename: called with the complete temporary file, for example to change its owner.

    Raises:
        OSError: it cannot be written.
    """
    if temporary is not None:
        temporary.unlink(missing_ok=True)  # what a killed process left
    with temporary_file(path, mode=mode, name=None if temporary is None else temporary.name) as new:
        with new.open("wb") as file:
            file.write(content)
            if sync != "nothing":
                file.flush()
                os.fsync(file.fileno())
        before_rename(new)
        new.replace(path)
    if sync == "file and folder":
        sync_folder(path.parent)


def write_new_file(path: Path, content: bytes, *, mode: int) -> None:
    """Creates `path` and flushes it to the disk; an existing file is never overwritten.

    Not atomic: if writing fails, a part of the file stays.

    Args:
        path: of the file.
        content: of the file.
        mode: its permissions, less those that the umask takes away.

    Raises:
        FileExistsError: there is a file already.
        OSError: it cannot be written.
    """
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def temporary_file(beside: Path, *, mode: int | None = PRIVATE, name: str | None = None) -> Iterator[Path]:
    """An empty new file in the folder of `beside`, removed at the end unless it was renamed.

    Args:
        beside: the file that it will replace or become.
        mode: its permissions; None: what the umask leaves of 0666.
        name: of the file; None: a hidden, random one.

    Raises:
        OSError: it cannot be created.
    """
    path = beside.with_name(name or f".{beside.name}-{secrets.token_hex(6)}.unfinished")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else PRIVATE))
    try:
        if mode is not None:
            path.chmod(mode)  # exactly: the umask has no say
        yield path
    finally:
        path.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Removes temporary files of `path` that killed processes left; only for the single writer of a file.

    Raises:
        OSError: they cannot be removed.
    """
    for left in path.parent.glob(f".{path.name}-*"):
        left.unlink(missing_ok=True)


def move_to_new_name(file: Path, path: Path) -> None:
    """Gives a complete file its final name, flushed to the disk, and never replaces another file.

    Raises:
        FileExistsError: there is a file at `path`.
        OSError: it cannot be moved.
    """
    try:
        path.hardlink_to(file)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError from None
        file.rename(path)
    else:
        file.unlink()
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Flushes to the disk what another library has written to a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flushes to the disk which files a folder holds. Does nothing on Windows, which opens no folders."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
