"""Small data files for tests."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], *, delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def walk(seconds: float = 4.0, *, rate: float = 10.0, start: float = 0.0, label: str = "walk") -> list[list[object]]:
    """Rows of time, two channels and a label."""
    return [[round(start + row / rate, 4), float(row), -float(row), label] for row in range(round(seconds * rate))]


HEADER = ("t", "x", "y", "label")
