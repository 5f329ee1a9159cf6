"""The header of a DICOM file, read with pydicom in bounded memory and time, and without its warnings and messages."""

import io
import logging
import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from device_client.data.dicom.film import FilmIdentity, FilmRefused
from device_client.data.dicom.tags import text
from device_client.data.faults import DataError

HEADER_BYTES_MAX = 16 * 2**20
"""Read before the pixels; values above `_DEFER_BYTES` are skipped and do not count. Bounds the time for nonsense."""
FILE_BYTES_MAX = 512 * 2**20
"""Of a file's pixels, and of a deflated file's content."""
DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
_DEFER_BYTES = 2**20
_QUIET = threading.Lock()
"""Filters of warnings belong to the whole process; two threads would undo each other's."""
_SCANNER_CHARACTERS_MAX = 64
_FILM_AS_PATIENT = re.compile(r"(?:Mass|Calc)-(?:Training|Test)_(P_\d+)_(?:LEFT|RIGHT)_(?:CC|MLO)(?:_\d+)?")
"""CBIS-DDSM has the name of each film as its Patient ID: one woman would stand on both sides of a split."""


@dataclass(frozen=True, kw_only=True)
class FilmHeader:
    """What a file says of itself, without pixels."""

    dataset: Any = field(repr=False)
    """pydicom's; holds identifiers, and must not get into messages."""
    transfer_syntax: str
    identity: FilmIdentity
    scanner: str = field(repr=False)


def read_header(path: Path | str) -> FilmHeader:
    """All but the pixels.

    Raises:
        FilmRefused: the file cannot be read, or is not a whole DICOM file.
        DataError: pydicom is not installed.
    """
    with opened(path) as (header, _):
        return header


@contextmanager
def opened(path: Path | str) -> Iterator[tuple[FilmHeader, IO[bytes]]]:
    """The header, and the file at its pixels."""
    refusal: FilmRefused
    try:
        raw = _Clamped(path, "rb")
    except OSError:
        refusal = FilmRefused("not_readable", "the file cannot be opened; check that it exists and may be read")
    else:
        with raw, quiet():
            try:
                parsed = _parsed(raw)
            except FilmRefused as error:
                refusal = FilmRefused(error.code, str(error))
            except DataError:
                raise
            except Exception:  # noqa: BLE001 — pydicom raises whatever its parsing trips over
                refusal = FilmRefused("damaged", "the header cannot be parsed; export the file again")
            else:
                yield parsed
                return
    raise refusal  # outside of the handlers: pydicom's own message, which may hold a value, is not chained


@contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings and log records: they quote values of tags."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "pydicom"]
    loggers = [logging.getLogger(name) for name in {"pydicom", *names}]
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.addFilter(_nothing)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(_nothing)


def _nothing(_record: logging.LogRecord) -> bool:
    return False


class _Clamped(io.FileIO):
    """Reads no further than the file goes: a length in a damaged header would reserve memory for up to 4 GiB."""

    def __init__(self, path: Path | str, mode: str) -> None:
        super().__init__(path, mode)
        self._size = self.seek(0, io.SEEK_END)
        self.seek(0)
        self.budget = HEADER_BYTES_MAX

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self.tell())
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > self.budget:
            raise FilmRefused("too_large", "the header is larger than a mammogram's can be; export the file again")
        self.budget -= wanted
        return super().read(wanted)


def _parsed(file: _Clamped) -> tuple[FilmHeader, IO[bytes]]:
    pydicom = _pydicom()
    head = file.read(132)
    if head[128:] != b"DICM":
        raise FilmRefused("not_dicom", "this is not a DICOM file; leave it out")
    meta = pydicom.filereader._read_file_meta_info(file)  # noqa: SLF001 — the public one takes a path only
    syntax = text(meta, "TransferSyntaxUID")
    if not syntax:
        raise FilmRefused("missing_tag", "the transfer syntax is not named; export the file again")
    content: IO[bytes] = file
    if syntax == DEFLATED:
        file.budget = FILE_BYTES_MAX
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        data = inflater.decompress(file.read(), FILE_BYTES_MAX)
        if inflater.unconsumed_tail:
            raise FilmRefused("too_large", "the deflated content is too large; export the film alone")
        content = io.BytesIO(data)
    dataset = pydicom.filereader.read_dataset(
        content,
        syntax == IMPLICIT,
        syntax != BIG_ENDIAN,
        stop_when=_at_pixels,
        defer_size=_DEFER_BYTES,
    )
    scanner = " ".join(filter(None, (text(dataset, "Manufacturer"), text(dataset, "ManufacturerModelName"))))
    patient_id = text(dataset, "PatientID")
    film = _FILM_AS_PATIENT.fullmatch(patient_id)
    identity = FilmIdentity(
        patient=film.group(1) if film else patient_id,
        patient_id=patient_id,
        study=text(dataset, "StudyInstanceUID"),
        image=text(dataset, "SOPInstanceUID"),
    )
    file.budget = FILE_BYTES_MAX
    header = FilmHeader(
        dataset=dataset,
        transfer_syntax=syntax,
        identity=identity,
        scanner=scanner[:_SCANNER_CHARACTERS_MAX],
    )
    return header, content


def _at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return tag >= 0x7FE00000  # noqa: PLR2004 — group 7FE0: pixels, and nothing of use after them


def _pydicom() -> Any:
    try:
        import pydicom.filereader  # noqa: PLC0415 — an optional extra

    except ImportError as error:
        raise DataError(f"reading DICOM files needs pydicom: pip install 'asyncfedkd[dicom]' ({error})") from None
    return pydicom
