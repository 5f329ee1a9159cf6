"""Time stamps as seconds: numbers in some unit, or ISO 8601 text."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

from device_client.data.faults import DataError

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
SECONDS: Mapping[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def seconds_of(stamps: Sequence[str], unit: TimeUnit, place_of: Callable[[int], str]) -> npt.NDArray[np.float64]:
    """Seconds of time stamps in text form since 1970 or another origin; ISO text without a zone is UTC.

    Args:
        stamps: their text.
        unit: of numbers; or iso.
        place_of: names the place of one of them, counted from 0.

    Raises:
        DataError: a stamp is missing, not finite, or not of this form.
    """
    if unit == "iso":
        return np.array([_of_iso(text, number, place_of) for number, text in enumerate(stamps)])
    try:
        numbers = np.fromiter(map(float, stamps), dtype=np.float64, count=len(stamps))
    except ValueError:
        numbers = np.array([_number(text) for text in stamps], dtype=np.float64)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        first = int(np.argmax(wrong))
        hint = "time_unit='iso' may be right" if _iso(stamps[first]) else "each row needs a time stamp"
        raise DataError(f"{place_of(first)}: {stamps[first][:40]!r} is not a number of {unit}; {hint}")
    return numbers * SECONDS[unit]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _of_iso(text: str, number: int, place_of: Callable[[int], str]) -> float:
    moment = _iso(text)
    if moment is None:
        raise DataError(
            f"{place_of(number)}: {text[:40]!r} is not an ISO 8601 time, such as 2026-03-01T12:00:00.250Z; for numbers "
            "give time_unit='s', 'ms', 'us' or 'ns'"
        )
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _iso(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        return None
