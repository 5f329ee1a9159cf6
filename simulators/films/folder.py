"""A folder of synthetic films of several patients, with their labels."""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_client.data.faults import needed
from simulators.films.drawing import FINDINGS, Finding, View, draw
from simulators.films.faults import FAULTS, write_fault
from simulators.films.writing import SCANNERS, Labelling, Scanner, available_syntaxes, dataset, write

LABELS = "labels.csv"
COLUMNS = ("PatientID", "SOPInstanceUID", "label", "laterality", "view", "row", "column", "radius")
ASPECT = 0.75
"""Columns by rows."""
_VIEWS: tuple[tuple[str, View], ...] = (("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO"))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be made; the same plan gives the same pixels, names and labels."""

    patients: int
    films: int = 4
    """Of each patient, at most 4: both views of both breasts."""
    rows: int = 320
    """Of the finer scanner's films."""
    seed: int = 0
    scanners: tuple[Scanner, ...] = SCANNERS
    syntaxes: tuple[str, ...] = ()
    """Names of transfer syntaxes, used in turn; empty: all that can be written here."""
    findings: tuple[Finding, ...] = FINDINGS
    """Of patients, in turn; a finding is in one breast."""
    faults: bool = False
    """Also one file with each fault."""
    dicomdir: bool = False
    """With a DICOMDIR, and folders as it names them."""


def make_films(folder: Path, plan: Plan) -> int:
    """Writes the films, and `labels.csv` beside them; returns the number of films.

    Raises:
        DataError: pydicom is not installed.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    syntaxes = plan.syntaxes or available_syntaxes()
    rows = []
    for count, (made, row) in enumerate(films_of(plan)):
        name = folder / f"film-{count:05}"
        write(made, name, syntaxes[count % len(syntaxes)])
        rows.append(row)
    if plan.dicomdir:
        _arrange(folder, [folder / f"film-{count:05}" for count in range(len(rows))])
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    if plan.faults:
        for number, fault in enumerate(FAULTS):
            made, _row = _film(plan, patient=plan.patients + number, number=0)
            write_fault(fault, made, folder)
    return len(rows)


def _arrange(folder: Path, films: list[Path]) -> None:
    """Moves the films to where a DICOMDIR names them."""
    file_set = needed("pydicom.fileset", extra="dicom", purpose="writing DICOM files").FileSet()
    for film in films:
        file_set.add(film)
    file_set.write(folder)
    for film in films:
        film.unlink()
    file_set._stage["t"].cleanup()  # noqa: SLF001 — pydicom leaves it to the garbage collector, with a warning


def films_of(plan: Plan) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Each film as pydicom's dataset, and its row of `labels.csv`."""
    for patient in range(plan.patients):
        for number in range(plan.films):
            yield _film(plan, patient=patient, number=number)


def _film(plan: Plan, *, patient: int, number: int) -> tuple[Any, tuple[Any, ...]]:
    name = f"SYN-{plan.seed}-{patient:04}"
    words = hashlib.sha256(f"{name} {number}".encode()).digest()
    random = np.random.default_rng(list(words))
    laterality, view = _VIEWS[number]
    scanner = plan.scanners[patient % len(plan.scanners)]
    # Scanners take turns, too: a finding may not depend on the scanner.
    finding = plan.findings[(patient // len(plan.scanners)) % len(plan.findings)]
    side = "LR"[hashlib.sha256(name.encode()).digest()[0] % 2] if plan.films > 2 else "L"  # noqa: PLR2004 — of 2 views
    label: Finding = finding if laterality == side else "normal"
    rows = scanner.rows(plan.rows)
    drawing = draw(rows, round(rows * ASPECT), view, label, random)
    labelling = Labelling(seed=plan.seed, patient=name, number=number, laterality=laterality, view=view)
    made = dataset(drawing, scanner, labelling)
    column = drawing.column
    if column >= 0 and laterality == "R":
        column = made.Columns - 1 - column
    place = (drawing.row, column, drawing.radius)
    return made, (name, str(made.SOPInstanceUID), label, laterality, view, *place)
