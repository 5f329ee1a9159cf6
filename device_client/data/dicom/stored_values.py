"""The stored values of a film: whole numbers as they stand in the file, after decoding."""

from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from device_client.data.dicom.decoder import DECODER
from device_client.data.dicom.film import PIXELS_MAX, FilmRefused
from device_client.data.dicom.header import (
    BIG_ENDIAN,
    DEFLATED,
    IMPLICIT,
    FilmHeader,
    frame_of,
    number,
    pixel_data,
    text,
)

EXPLICIT = "1.2.840.10008.1.2.1"
RLE = "1.2.840.10008.1.2.5"
NATIVE = frozenset({IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN})
ENCAPSULATED = frozenset(
    {
        RLE,
        "1.2.840.10008.1.2.4.50",  # JPEG baseline, 8 bits
        "1.2.840.10008.1.2.4.51",  # JPEG extended
        "1.2.840.10008.1.2.4.57",  # JPEG lossless
        "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
        "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
        "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
        "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
        "1.2.840.10008.1.2.4.91",  # JPEG 2000
    }
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How stored values are laid out."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest stored value."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def layout_of(header: FilmHeader) -> Layout:
    """The layout, checked.

    Raises:
        FilmRefused: a tag is missing, or the film is empty, too large, or in colour.
    """
    dataset = header.dataset
    if (number(dataset, "NumberOfFrames") or 1) > 1:
        raise FilmRefused("multi_frame", "several frames (tomosynthesis or a series) are not read; use the 2D films")
    photometric = text(dataset, "PhotometricInterpretation").upper()
    if (number(dataset, "SamplesPerPixel") or 1) > 1 or photometric.startswith(("RGB", "YBR", "PALETTE")):
        raise FilmRefused("colour", "colour images are not read; export the film in grey (MONOCHROME2)")
    if photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise FilmRefused("missing_tag", "PhotometricInterpretation is missing or unknown; export the file again")
    known: dict[str, int] = {}
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        value = number(dataset, name)
        if value is None:
            raise FilmRefused("missing_tag", f"{name} is missing or no number; export the file again")
        known[name] = value
    rows, columns, allocated, stored = (known[n] for n in ("Rows", "Columns", "BitsAllocated", "BitsStored"))
    if rows < 1 or columns < 1:
        raise FilmRefused("size", "the film has no rows or no columns; export the file again")
    if rows * columns > PIXELS_MAX:
        raise FilmRefused("too_large", f"the film has {rows * columns:,} pixels, and at most {PIXELS_MAX:,} are read")
    high_bit = number(dataset, "HighBit")
    high_bit = stored - 1 if high_bit is None else high_bit
    if allocated not in {8, 16} or not 1 <= stored <= allocated or not stored - 1 <= high_bit < allocated:
        raise FilmRefused("size", f"{stored} bits stored in {allocated} are not read; films have 8 to 16 bits")
    if known["PixelRepresentation"] not in {0, 1}:
        raise FilmRefused("damaged", "PixelRepresentation is neither 0 nor 1; export the file again")
    return Layout(
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit,
        signed=known["PixelRepresentation"] == 1,
    )


def stored_values(header: FilmHeader, layout: Layout, content: IO[bytes]) -> npt.NDArray[Any]:
    """Values (row, column), unsigned or signed, with only the stored bits.

    Raises:
        FilmRefused: there are no pixels, their length is wrong, or they cannot be decoded.
    """
    syntax = header.transfer_syntax
    if syntax not in NATIVE | ENCAPSULATED:
        raise FilmRefused("transfer_syntax", "the transfer syntax is not one for single films; export uncompressed")
    data, encapsulated, vr = pixel_data(content, syntax)
    if encapsulated == (syntax in NATIVE):
        raise FilmRefused("damaged", "the pixel data do not match the transfer syntax; export the file again")
    if encapsulated:
        raw = _decoded(frame_of(data), syntax, layout)
    else:
        raw = _native(data, layout, big_endian=syntax == BIG_ENDIAN, swapped=vr == "OW")
    shift = layout.high_bit + 1 - layout.bits_stored if syntax in NATIVE | {RLE} else 0
    if shift or layout.bits_stored < layout.bits_allocated:
        raw = (raw >> shift) & ((1 << layout.bits_stored) - 1)
    if not layout.signed:
        return raw
    unused = layout.bits_allocated - layout.bits_stored
    return (raw << unused).view(f"i{raw.itemsize}") >> unused


def _native(data: bytes, layout: Layout, *, big_endian: bool, swapped: bool) -> npt.NDArray[Any]:
    count = layout.rows * layout.columns
    wanted = count * layout.bits_allocated // 8
    if len(data) not in {wanted, wanted + wanted % 2}:
        raise FilmRefused(
            "length", "the length of the pixel data is not that of rows times columns; export the file again"
        )
    if layout.bits_allocated == 16:  # noqa: PLR2004
        words = np.frombuffer(data, dtype=">u2" if big_endian else "<u2", count=count)
        return words.astype(np.uint16, copy=False).reshape(layout.rows, layout.columns)
    octets = np.frombuffer(data, dtype=np.uint8)
    if big_endian and swapped and len(octets) % 2 == 0:  # bytes in words: each pair is the other way round
        octets = octets.reshape(-1, 2)[:, ::-1].reshape(-1)
    return octets[:count].reshape(layout.rows, layout.columns)


def _decoded(frame: bytes, syntax: str, layout: Layout) -> npt.NDArray[Any]:
    pixels = DECODER.decode(
        frame,
        {
            "transfer_syntax_uid": syntax,
            "rows": layout.rows,
            "columns": layout.columns,
            "number_of_frames": 1,
            "samples_per_pixel": 1,
            "photometric_interpretation": "MONOCHROME2",
            "pixel_representation": int(layout.signed),
            "bits_allocated": layout.bits_allocated,
            "bits_stored": layout.bits_stored,
            "pixel_keyword": "PixelData",
        },
    )
    if pixels.shape != (layout.rows, layout.columns) or pixels.dtype.kind not in "iu":
        raise FilmRefused("length", "the decoded film has another size than its header says; export the file again")
    return pixels.astype(f"u{layout.bits_allocated // 8}", copy=False)
