"""Films on disk in the form that a network takes them in, so that a folder of thousands is decoded once.

A film is one file: a line of JSON, then two bytes a pixel. It is written beside and renamed, so that whatever ends the
program leaves whole films behind, and the next run goes on from there. Names of films are HMACs of path, size and times
of the file and of the settings: a file or setting that changes gives another name, and the film is made anew. The key
lies in the folder, is made at random, and never leaves it.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.data.dicom.film import FilmSettings
from device_client.data.dicom.folder.pseudonyms import KEY_BYTES, Pseudonyms
from device_client.data.faults import DataError
from device_client.slow_work import slow_work
from wire_contract.files.atomic_write import write_atomically
from wire_contract.files.file_lock import FileLock, FileLocked
from wire_contract.files.permissions import PRIVATE

BYTES_MAX = 50 * 10**9
"""Chosen: 5,000 films of 10 MB."""
_FORM = 2
"""Raised whenever `read_film` gives other pixels or a record other fields, so that films are made anew."""
_NAME_DIGITS = 40
_NAME = re.compile(rf"[0-9a-f]{{{_NAME_DIGITS}}}\.film")
"""Other files in the folder are left alone."""
_RETRY_SECONDS = 0.2
_FULL_SCALE = 65_535
_HEAD_BYTES_MAX = 1 << 16


@dataclass(frozen=True, kw_only=True)
class FilmRecord:
    """What is known of one file beside its pixels; nothing of it identifies anyone."""

    code: str = ""
    """Why it is refused; empty: it is used."""
    reason: str = ""
    patient: str = ""
    """Pseudonym."""
    patient_id: str = ""
    """Pseudonym of the Patient ID as it stands in the file; in CBIS-DDSM it names the film."""
    image: str = ""
    """Pseudonym of the SOP Instance UID."""
    tag_label: str = ""
    """Pseudonym of the value of the tag that labels are taken from."""
    laterality: str = ""
    view: str = ""
    scanner: str = ""
    spacing_mm: float | None = None
    """Of the pixels kept."""
    pixel_hash: str = ""
    """Of the stored values, in hex; copies have the same one."""
    height: int = 0
    width: int = 0
    checksum: str = ""
    """Of the pixels in the cache."""
    warnings: tuple[str, ...] = ()


_FIELDS = {one.name for one in fields(FilmRecord)}


class FilmCache:
    """A folder that only its owner can read. One program at a time takes films in; any number may read them."""

    def __init__(
        self,
        folder: Path,
        settings: FilmSettings,
        *,
        label_tag: str = "",
        bytes_max: int = BYTES_MAX,
        patience_seconds: float = 0.0,
    ) -> None:
        """Opens or makes it. `patience_seconds`: how long `lock` waits for another program.

        Raises:
            DataError: the folder cannot be made, read or written.
        """
        self._folder, self._bytes_max, self._patience_seconds = folder, bytes_max, patience_seconds
        self._form = json.dumps({"form": _FORM, "tag": label_tag, **asdict(settings)}, sort_keys=True)
        self._lock: FileLock | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(error) from None
        self.pseudonyms = Pseudonyms(self._read_key())
        self._bytes = 0

    def _read_key(self) -> bytes:
        path = self._folder / "key"
        try:
            if path.exists():
                key = path.read_bytes()
            else:
                self.lock()
                try:
                    if not path.exists():
                        write_atomically(path, secrets.token_bytes(KEY_BYTES), mode=PRIVATE)
                    key = path.read_bytes()
                finally:
                    self.release()
        except OSError as error:
            raise _unusable(error) from None
        if len(key) != KEY_BYTES:
            raise DataError("the key of the cache of films is damaged; remove the cache folder, and it is made again")
        return key

    def lock(self) -> None:
        """Keeps other programs from writing, removes what killed ones left, and counts the bytes.

        Raises:
            DataError: another program takes films in, or the folder cannot be used.
        """
        try:
            self._lock = self._locked()
            for left in self._folder.glob(".*.unfinished"):
                left.unlink(missing_ok=True)
            self._bytes = sum(path.stat().st_size for path in self._films())
        except FileLocked as error:
            raise DataError(f"another program ({error.holder}) takes films into this cache; wait for it") from None
        except OSError as error:
            raise _unusable(error) from None

    def _locked(self) -> FileLock:
        """Raises `FileLocked` when patience ends."""
        path, until = self._folder / "lock", time.monotonic() + self._patience_seconds
        with suppress(FileLocked):
            return FileLock(path)
        with slow_work("waiting for another program that takes films into this cache"):
            while time.monotonic() < until:
                time.sleep(_RETRY_SECONDS)
                with suppress(FileLocked):
                    return FileLock(path)
            return FileLock(path)

    def release(self) -> None:
        """Ends `lock`."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def name_of(self, path: Path) -> str:
        """The film's name in the cache.

        Raises:
            OSError: there is no such file.
        """
        found = path.stat()
        about = f"{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\0{found.st_ino}"
        return self.pseudonyms.hmac(f"film\0{path.absolute()}\0{about}\0{self._form}")[:_NAME_DIGITS]

    def record(self, name: str) -> FilmRecord | None:
        """What is known of a film; None: it is not in the cache, or damaged there."""
        try:
            with self._path(name).open("rb") as file:
                head, start = _head(file.readline(_HEAD_BYTES_MAX))
                whole = os.fstat(file.fileno()).st_size == start + 2 * head.height * head.width
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        return head if whole else None

    def pixels(self, name: str) -> npt.NDArray[np.float32]:
        """The film (row, column), 0 to 1.

        Raises:
            DataError: it is not in the cache, or damaged there.
        """
        try:
            with self._path(name).open("rb") as file:
                head, _start = _head(file.readline(_HEAD_BYTES_MAX))
                content = file.read()
            values = np.frombuffer(content, dtype="<u2").reshape(head.height, head.width)
            whole = _checksum(content) == head.checksum
        except (OSError, ValueError, TypeError, AttributeError):
            whole = False
        if not whole:
            with suppress(OSError):
                self._path(name).unlink(missing_ok=True)  # if its length is right, the next intake would keep it
            raise DataError("a film is gone from the cache, or damaged there; take the folder in again")
        return values.astype(np.float32) / np.float32(_FULL_SCALE)

    def keep(
        self, name: str, record: FilmRecord, pixels: npt.NDArray[np.float32] | None, in_use: Collection[str]
    ) -> FilmRecord:
        """Adds a film, or the reason for its refusal. Films that are not in use make room if need be.

        Returns:
            The record as it was written.

        Raises:
            DataError: the disk or the bound on bytes allows no more.
        """
        values = b"" if pixels is None else np.rint(np.clip(pixels, 0, 1) * _FULL_SCALE).astype("<u2").tobytes()
        record = replace(record, checksum=_checksum(values) if values else "")
        content = json.dumps(asdict(record)).encode() + b"\n" + values
        path = self._path(name)
        try:
            self._bytes -= path.stat().st_size if path.exists() else 0
        except OSError as error:
            raise _unusable(error) from None
        self._make_room(len(content), in_use)
        try:
            write_atomically(path, content, mode=PRIVATE)
        except OSError as error:
            raise _unusable(error) from None
        self._bytes += len(content)
        return record

    def _make_room(self, wanted: int, in_use: Collection[str]) -> None:
        if self._bytes + wanted <= self._bytes_max:
            return
        unused = [path for path in self._films() if path.stem not in in_use]
        for path in sorted(unused, key=lambda path: path.stat().st_mtime_ns):
            if self._bytes + wanted <= self._bytes_max:
                return
            self._bytes -= path.stat().st_size
            path.unlink(missing_ok=True)
        if self._bytes + wanted > self._bytes_max:
            raise DataError(
                f"the films need more than the {self._bytes_max:,} bytes that the cache may take; choose a coarser "
                "spacing_mm, or allow more"
            )

    def write_text(self, name: str, text: str) -> None:
        """Writes a file of its own, such as the manifest.

        Raises:
            DataError: the disk takes no more.
        """
        try:
            write_atomically(self._folder / name, text.encode(), mode=PRIVATE)
        except OSError as error:
            raise _unusable(error) from None

    def _films(self) -> Iterator[Path]:
        return (path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.film"


def _head(line: bytes) -> tuple[FilmRecord, int]:
    """The first line, and where the pixels begin. Raises `ValueError`, `TypeError` or `AttributeError` if damaged."""
    known: dict[str, Any] = json.loads(line)
    if not line.endswith(b"\n") or known.keys() != _FIELDS:
        raise ValueError
    known["warnings"] = tuple(known["warnings"])
    return FilmRecord(**known), len(line)


def _checksum(values: bytes) -> str:
    return blake2b(values, digest_size=8).hexdigest()


def _unusable(error: OSError) -> DataError:
    return DataError(
        f"the cache of films cannot be used: {error.strerror or 'unknown error'}; free space or check permissions, and "
        "run again: it goes on from here"
    )
