"""The spool: lines on disk, in segment files, that wait for a server, or are kept for reading if there is none.

    SPOOL/000000000001.lines    complete lines, oldest first; only the newest segment grows
    SPOOL/progress.json         what was sent of the oldest segment, and the counters
    SPOOL/lock                  held by the one program that writes

Its size is bounded: when it is full, the oldest segment is deleted and its lines are counted. Nothing is flushed to
disk: telemetry may lose its newest lines in a power failure. A line that a crash has truncated is removed on the next
start.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from errno import ENOSPC
from pathlib import Path
from threading import Lock
from typing import IO, NamedTuple

from wire_contract.errors import ContractError
from wire_contract.files.atomic_write import write_atomically
from wire_contract.files.file_lock import FileLock, FileLocked
from wire_contract.files.permissions import PRIVATE, private_opener
from wire_contract.limits import KIB

log = logging.getLogger(__name__)

SEGMENTS = 16
"""Segments in a full spool, so a sixteenth of it is dropped at once. Chosen, not measured: fewer lose more at once,
more make more files."""
SPOOL_BYTES_MIN = 64 * KIB
"""Chosen: more than two appends of `_LINES_AT_ONCE` lines of some 260 bytes, so that one fits."""
_SUFFIX = ".lines"
_PROGRESS = "progress.json"


class SpoolError(ContractError):
    """The spool cannot be used; the message says what to do."""


@dataclass
class Counters:
    """Points since the spool was created."""

    recorded: int = 0
    queue_dropped: int = 0
    spool_dropped: int = 0
    server_dropped: int = 0
    sent: int = 0


class Position(NamedTuple):
    """Position at which reading continues."""

    segment: int
    offset: int


class Chunk(NamedTuple):
    """Complete lines, and the position after them."""

    data: bytes
    lines: int
    after: Position


class Spool:
    """The spool of one program. One thread appends; another may read and advance."""

    def __init__(self, folder: Path, *, bytes_max: int) -> None:
        """Raises:
        SpoolError: the folder cannot be written, or another program writes there.
        """
        assert bytes_max >= SPOOL_BYTES_MIN, f"spool of {bytes_max} bytes"
        self.folder = folder
        self.counters = Counters()
        self._bytes_max = bytes_max
        self._segment_bytes = bytes_max // SEGMENTS
        self._guard = Lock()
        self._complained = False
        self._closed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        except OSError as error:
            raise _unusable(folder, error) from None
        try:
            self._sizes = {number: _path(folder, number).stat().st_size for number in _segments(folder)}
            self._position = self._read_progress()
            if not self._sizes:
                self._sizes[self._position.segment] = 0
            self._mend()
            self._file = self._open()
            self._save()
        except OSError as error:
            self._lock.release()
            raise _unusable(folder, error) from None

    @property
    def size_bytes(self) -> int:
        """Size on disk, bytes."""
        return sum(self._sizes.values())

    def close(self) -> None:
        """Releases the lock."""
        with self._guard:
            if self._closed:
                return
            self._save()
            self._closed = True
            self._file.close()
            self._lock.release()

    # -- the writer

    def append(self, lines: Sequence[str]) -> None:
        """Adds lines, and drops the oldest segments if necessary. If the disk is full, these lines are lost."""
        for begin in range(0, len(lines), _LINES_AT_ONCE):
            some = lines[begin : begin + _LINES_AT_ONCE]
            data = ("\n".join(some) + "\n").encode()
            with self._guard:
                if not self._closed:
                    self._append(data, len(some))
        with self._guard:
            if not self._closed:
                self._save()

    def _append(self, data: bytes, count: int) -> None:
        newest = max(self._sizes)
        if self._sizes[newest] + len(data) > self._segment_bytes and self._sizes[newest]:
            self._file.close()
            newest += 1
            self._sizes[newest] = 0
            self._file = self._open()
        while self.size_bytes + len(data) > self._bytes_max and len(self._sizes) > 1:
            self._drop_oldest()
        try:
            _write_all(self._file, data)
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._sizes[newest])  # a partial line would corrupt the next one
            self._dropped(count, f"cannot be written ({error.strerror})")
        else:
            self._sizes[newest] += len(data)

    def _drop_oldest(self) -> None:
        oldest = min(self._sizes)
        path = _path(self.folder, oldest)
        offset = self._position.offset if self._position.segment == oldest else 0
        try:
            lines = path.read_bytes().count(b"\n", offset)
            path.unlink()
        except OSError as error:
            lines = 0
            log.warning("telemetry spool %s: %s", path, error.strerror)
        del self._sizes[oldest]
        self._position = max(self._position, Position(min(self._sizes), 0))
        if lines:
            self._dropped(lines, f"is full ({self._bytes_max} bytes), the oldest go")

    def _dropped(self, lines: int, why: str) -> None:
        self.counters.spool_dropped += lines
        if not self._complained:
            self._complained = True
            log.warning(
                "telemetry spool %s %s: %d points dropped; further ones are only counted",
                *(
                    self.folder,
                    why,
                    lines,
                ),
            )

    # -- the reader

    def read(self, bytes_max: int) -> Chunk | None:
        """The oldest unsent lines, about this many bytes; None if there are none."""
        with self._guard:
            size = self._unsent_size()
            if size is None:
                return None
            segment, offset = self._position
            with _path(self.folder, segment).open("rb") as file:
                file.seek(offset)
                data = file.read(min(bytes_max, size - offset))
                if not data.endswith(b"\n"):
                    data = data[: data.rfind(b"\n") + 1] or data + file.readline()
            return Chunk(data, data.count(b"\n"), Position(segment, offset + len(data)))

    def _unsent_size(self) -> int | None:
        """Size of the segment that is read next; deletes segments that were sent completely."""
        while not self._closed:
            segment, offset = self._position
            if offset < self._sizes[segment]:
                return self._sizes[segment]
            if segment == max(self._sizes):
                return None
            _path(self.folder, segment).unlink(missing_ok=True)
            del self._sizes[segment]
            self._position = Position(min(self._sizes), 0)
        return None

    def advance(self, chunk: Chunk, *, dropped: int = 0) -> None:
        """The server has stored or refused these lines; they are not sent again, even after a restart."""
        with self._guard:
            if self._closed:
                return
            if chunk.after.segment in self._sizes:  # otherwise it was dropped meanwhile, and counted
                self._position = max(self._position, chunk.after)
                self.counters.sent += chunk.lines - dropped
                self.counters.server_dropped += dropped
            self._save()

    # -- inside

    def _open(self) -> IO[bytes]:
        return open(_path(self.folder, max(self._sizes)), "ab", buffering=0, opener=private_opener)

    def _mend(self) -> None:
        newest = max(self._sizes)
        path = _path(self.folder, newest)
        if path.exists():
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(path, whole)
                self._sizes[newest] = whole
                self.counters.spool_dropped += 1
        oldest = min(self._sizes)
        if self._position.segment not in self._sizes or self._position.offset > self._sizes[self._position.segment]:
            self._position = Position(oldest, 0)

    def _read_progress(self) -> Position:
        """The stored position; the beginning if it cannot be read, since sending lines twice does no harm."""
        first = Position(min(self._sizes, default=1), 0)
        try:
            told = json.loads((self.folder / _PROGRESS).read_bytes())
            counters = {name: int(told["counters"].get(name, 0)) for name in _COUNTERS}
            position = Position(int(told["segment"]), int(told["offset"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return first
        self.counters = Counters(**counters)
        return max(position, first)

    def _save(self) -> None:
        told = {**self._position._asdict(), "counters": asdict(self.counters)}
        path = self.folder / _PROGRESS
        with suppress(OSError):
            write_atomically(
                path,
                json.dumps(told).encode("ascii"),
                mode=PRIVATE,
                sync="nothing",
                temporary=path.with_name(_PROGRESS + ".new"),
            )


_LINES_AT_ONCE = 100
"""Chosen, not measured: with one write per line, writing would be slow; with all in one, a batch could exceed a small
spool."""
_COUNTERS = tuple(field.name for field in fields(Counters))


def _write_all(file: IO[bytes], data: bytes) -> None:
    if file.write(data) != len(data):  # a full disk writes only what still fits
        raise OSError(ENOSPC, os.strerror(ENOSPC))


def _unusable(folder: Path, error: OSError) -> SpoolError:
    return SpoolError(f"telemetry spool {folder}: {error.strerror}; give another --telemetry-spool")


def _lock(folder: Path) -> FileLock:
    try:
        return FileLock(folder / "lock")
    except FileLocked:
        raise SpoolError(
            f"telemetry spool {folder}: another aggregator writes there; give each its own --telemetry-spool"
        ) from None


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:012d}{_SUFFIX}"


def _segments(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*" + _SUFFIX) if path.stem.isdigit())


def read_spool(folder: Path) -> Iterator[str]:
    """All complete lines on disk, oldest first, even while another program writes.

    Raises:
        SpoolError: there is no such folder.
    """
    if not folder.is_dir():
        raise SpoolError(f"telemetry spool {folder}: there is no such folder")
    for number in _segments(folder):
        with (
            suppress(FileNotFoundError),
            _path(folder, number).open("rb") as file,
        ):  # a segment may be deleted meanwhile
            for line in file:
                if line.endswith(b"\n"):
                    yield line.decode(errors="replace").rstrip("\n")


def read_counters(folder: Path) -> Counters:
    """Counters of a spool as of its last change."""
    try:
        told = json.loads((folder / _PROGRESS).read_bytes())["counters"]
        return Counters(**{name: int(told.get(name, 0)) for name in _COUNTERS})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Counters()
