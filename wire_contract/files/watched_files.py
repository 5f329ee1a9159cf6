"""Files that may be replaced while a program runs: passwords, certificates, tokens."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from wire_contract.errors import FileUnusable

_FILE_BYTES_MAX = 1 << 22
"""More is not read. A bundle of all public certificate authorities has about 200 kB."""

Stamp = tuple[int, int, int] | None


class WatchedFiles:
    """Detects that one of the files was written, replaced, removed or created. Not thread-safe."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._stamps = self._look()
        self._digests = self._read()

    def touched(self) -> bool:
        """Whether a file has another time, size or inode than at the last call of `changed`. Cheap: reads no file."""
        return self._look() != self._stamps

    def changed(self) -> bool:
        """Whether the contents differ from those at the last call, or at construction."""
        self._stamps = self._look()  # first, so that a later write counts as a change
        digests = self._read()
        before, self._digests = self._digests, digests
        return digests != before

    def _look(self) -> list[Stamp]:
        return [_stamp(path) for path in self._paths]

    def _read(self) -> list[bytes]:
        return [_digest(path) for path in self._paths]


def first_line(path: Path, what: str) -> str:
    """The first line of a text file, without the line break.

    Args:
        path: of the file.
        what: the file is, for the message: "password file".

    Raises:
        FileUnusable: it cannot be read, is not text, or its first line is empty.
    """
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(_FILE_BYTES_MAX).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise FileUnusable(f"{what} {path}: {reason}") from None
    if not line:
        raise FileUnusable(f"{what} {path}: its first line is empty")
    return line


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_FILE_BYTES_MAX)).digest()
    except OSError:
        return b""
