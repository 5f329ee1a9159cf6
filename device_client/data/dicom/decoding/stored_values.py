"""The stored values of a film: whole numbers as they stand in the file, after decoding."""

import struct
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from device_client.data.dicom.decoding.decoder import DECODER
from device_client.data.dicom.film import FilmRefused
from device_client.data.dicom.header import BIG_ENDIAN, DEFLATED, IMPLICIT, FilmHeader
from device_client.data.dicom.tags import Layout

_UNDEFINED = 0xFFFFFFFF
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


def pixel_data(content: IO[bytes], syntax: str) -> tuple[bytes, bool, str]:
    """The pixel data after the header: its bytes, whether they are encapsulated, and the VR.

    Raises:
        FilmRefused: there are none, or the element is cut off.
    """
    order = ">" if syntax == BIG_ENDIAN else "<"
    head = content.read(8)
    if len(head) < 8:  # noqa: PLR2004
        raise FilmRefused("no_pixels", "the file holds no pixel data; export the film with its image")
    group, element = struct.unpack(order + "HH", head[:4])
    if (group, element) != (0x7FE0, 0x0010):
        raise FilmRefused("no_pixels", "the file holds no whole-number pixel data; export the film with its image")
    if syntax == IMPLICIT:
        vr, (length,) = "OW", struct.unpack("<I", head[4:])
    else:
        vr = head[4:6].decode("latin-1")
        rest = content.read(4)
        if vr not in {"OB", "OW"} or len(rest) < 4:  # noqa: PLR2004
            raise FilmRefused("damaged", "the pixel data do not begin as they should; export the file again")
        (length,) = struct.unpack(order + "I", rest)
    encapsulated = length == _UNDEFINED
    data = content.read(-1 if encapsulated else length)
    if not encapsulated and len(data) < length:
        raise FilmRefused("length", "the pixel data are cut off; copy or export the file again")
    return data, encapsulated, vr


def frame_of(data: bytes) -> bytes:
    """The one frame of encapsulated pixel data: all fragments after the offset table.

    Raises:
        FilmRefused: the items do not follow each other up to the delimiter.
    """
    fragments: list[bytes] = []
    at = 0
    while True:
        if at + 8 > len(data):
            break
        group, element, length = struct.unpack_from("<HHI", data, at)
        at += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            if len(fragments) < 2:  # noqa: PLR2004 — the offset table and one fragment
                raise FilmRefused("no_pixels", "the compressed pixel data are empty; export the file again")
            return b"".join(fragments[1:])
        if (group, element) != (0xFFFE, 0xE000) or at + length > len(data):
            break
        fragments.append(data[at : at + length])
        at += length
    raise FilmRefused("length", "the compressed pixel data are cut off; copy or export the file again")
