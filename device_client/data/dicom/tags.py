"""Values of tags, whatever is in them, and the layout of the pixels that they describe."""

from dataclasses import dataclass
from typing import Any

from device_client.data.dicom.film import PIXELS_MAX, FilmRefused


def text(dataset: Any, name: str) -> str:
    """A tag as text; empty where it is missing or not readable."""
    value = value_of(dataset, name)
    return "" if value is None else str(value).strip().strip("\0").strip()


def texts(dataset: Any, name: str) -> list[str]:
    """A tag with several values."""
    value = value_of(dataset, name)
    if value is None:
        return []
    return [str(one).strip() for one in ([value] if isinstance(value, str | int | float) else list(value))]


def number(dataset: Any, name: str) -> int | None:
    """A whole number; None where the tag is missing or something else."""
    value = value_of(dataset, name)
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def numbers(dataset: Any, name: str) -> list[float]:
    """Numbers; empty where the tag is missing or something else."""
    value = value_of(dataset, name)
    if value is None or isinstance(value, bytes):
        return []
    try:
        return [float(one) for one in ([value] if isinstance(value, str | int | float) else list(value))]
    except (TypeError, ValueError, OverflowError):
        return []


def value_of(dataset: Any, name: str) -> Any:
    """A tag's value, or None. pydicom converts values at the first access, which fails in many ways."""
    try:
        return dataset.get(name)
    except Exception:  # noqa: BLE001 — whatever pydicom raises about the value of a damaged tag
        return None


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


def layout_of(dataset: Any) -> Layout:
    """The layout, checked.

    Raises:
        FilmRefused: a tag is missing, or the film is empty, too large, or in colour.
    """
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
