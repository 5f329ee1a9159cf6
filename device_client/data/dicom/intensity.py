"""Stored values → intensities from 0 to 1, in the order of PS3.3 C.11: modality, then values of interest, then sense.

Stored values have at most 16 bits, so that every step is computed once for each possible value, and then looked up.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.data.dicom.film import FilmRefused
from device_client.data.dicom.tags import Layout, number, numbers, text, value_of

Floats = npt.NDArray[np.float64]
_USED_SHARE_MIN = 1 / 8
"""A film without window that uses less of its range is stretched over what it uses."""


def intensities(dataset: Any, stored: npt.NDArray[Any], layout: Layout, warnings: list[str]) -> npt.NDArray[np.float32]:
    """Intensities (row, column), float32 from 0 to 1 in the sense of MONOCHROME2: dense tissue is bright.

    Raises:
        FilmRefused: rescale or window are no usable numbers.
    """
    low, high = layout.range
    values = np.arange(low, high + 1, dtype=np.float64)
    modality, limits = _modality(dataset, values)
    shown = _voi(dataset, modality)
    if shown is None:
        first, last = limits if limits is not None else (float(modality.min()), float(modality.max()))
        used = modality[[int(stored.min()) - low, int(stored.max()) - low]]
        if abs(used[1] - used[0]) < _USED_SHARE_MIN * (last - first):
            first, last = float(used.min()), float(used.max())
            warnings.append("the film has no window and uses little of its range: stretched over what it uses")
        shown = (modality - first) / max(last - first, 1e-9)
    if is_inverted(dataset):
        shown = 1 - shown
    padding = number(dataset, "PixelPaddingValue")
    if padding is not None:
        limit = number(dataset, "PixelPaddingRangeLimit")
        first_pad, last_pad = sorted((padding, padding if limit is None else limit))
        shown = np.where((values >= first_pad) & (values <= last_pad), 0.0, shown)
    table = np.clip(shown, 0, 1).astype(np.float32)
    found: npt.NDArray[np.float32] = table[stored.astype(np.int32) - low if low else stored]
    return found


def is_inverted(dataset: Any) -> bool:
    """Whether high values are dark."""
    inverse = text(dataset, "PresentationLUTShape").upper() == "INVERSE"
    return inverse or text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1"


def _modality(dataset: Any, values: Floats) -> tuple[Floats, tuple[float, float] | None]:
    """Values after the modality step, and the limits of its table, if it is one."""
    table = _table(dataset, "ModalityLUTSequence")
    if table is not None:
        first, entries, bits = table
        return _looked_up(values, first, entries), (0.0, float((1 << bits) - 1))
    slope, intercept = (numbers(dataset, name) for name in ("RescaleSlope", "RescaleIntercept"))
    a, b = (slope or [1.0])[0], (intercept or [0.0])[0]
    if not (np.isfinite(a) and np.isfinite(b)) or not 1e-12 < abs(a) < 1e12 or abs(b) > 1e12:  # noqa: PLR2004
        raise FilmRefused("intensity", "rescale slope or intercept is no usable number; export the file again")
    return values * a + b, None


def _voi(dataset: Any, values: Floats) -> Floats | None:
    """Values of interest from 0 to 1: by the first table or window; None if there is neither."""
    table = _table(dataset, "VOILUTSequence")
    if table is not None:
        first, entries, bits = table
        return _looked_up(values, first, entries) / ((1 << bits) - 1)
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    if not centers or not widths:
        return None
    kind = text(dataset, "VOILUTFunction").upper() or "LINEAR"
    return window(values, centers[0], widths[0], kind)


def window(values: Floats, center: float, width: float, kind: str) -> Floats:
    """A window by PS3.3 C.11.2.1.2 and C.11.2.1.3, from 0 to 1.

    Raises:
        FilmRefused: the window has no width, or is of an unknown kind.
    """
    smallest = 1.0 if kind == "LINEAR" else 1e-9
    if not (np.isfinite(center) and np.isfinite(width)) or not smallest <= width < 1e12 or abs(center) > 1e12:  # noqa: PLR2004
        raise FilmRefused("intensity", "the window is no usable pair of numbers; export the file again")
    if kind == "LINEAR":
        if width == 1:
            return (values > center - 0.5).astype(np.float64)
        return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    if kind == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if kind == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))), dtype=np.float64)
    raise FilmRefused("intensity", "VOILUTFunction is unknown; it may be LINEAR, LINEAR_EXACT or SIGMOID")


def _table(dataset: Any, name: str) -> tuple[int, Floats, int] | None:
    """First mapped value, entries and bits of the first item of a LUT sequence."""
    sequence = value_of(dataset, name)
    if not sequence:
        return None
    bad = FilmRefused("intensity", f"{name} holds no usable table; export the file again")
    descriptor = numbers(sequence[0], "LUTDescriptor")
    data = value_of(sequence[0], "LUTData")
    if len(descriptor) != 3 or data is None:  # noqa: PLR2004 — PS3.3 C.11.1.1: entries, first value, bits
        raise bad
    count, first, bits = (int(one) for one in descriptor)
    count = count % (1 << 16) or 1 << 16
    if not 8 <= bits <= 16:  # noqa: PLR2004
        raise bad
    if isinstance(data, bytes):
        entries = np.frombuffer(data[:count] if len(data) < 2 * count else data[: 2 * count], dtype=np.uint8)
        entries = entries.view("<u2") if len(data) >= 2 * count else entries
    else:
        entries = np.asarray(data).reshape(-1)
    if len(entries) < count:
        raise bad
    return first, entries[:count].astype(np.float64), bits


def _looked_up(values: Floats, first: int, entries: Floats) -> Floats:
    found: Floats = entries[np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.int64)]
    return found
