"""A folder for task `mammography` with synthetic films of five hospitals, a teacher and patients to test on.

Hospitals differ as they do: one has few films, and one has another scanner, which the teacher has not seen.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device_client.tasks.mammography.films import DEVICE, FILMS, HELD_OUT, LABELS, ROLE, SITE, TEACHER
from simulators.films.folder import LABELS as TABLE
from simulators.films.folder import Plan, make_films
from simulators.films.writing import SCANNERS, Scanner

ALPHA, BETA = SCANNERS
ROWS = 400
"""Of a film: 0.7 mm a pixel, finer than the task needs."""


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """One place of the trial."""

    name: str
    patients: int
    """Whose films are on its device."""
    tested: int
    """Patients of it that are held out."""
    scanner: Scanner = ALPHA
    note: str = ""
    """What is special, for tables."""


HOSPITALS: Sequence[Hospital] = (
    Hospital(name="hospital-1", patients=5, tested=8),
    Hospital(name="hospital-2", patients=5, tested=8),
    Hospital(name="hospital-3", patients=2, tested=8, note="few films"),
    Hospital(name="hospital-4", patients=5, tested=8, scanner=BETA, note="another scanner"),
    Hospital(name="hospital-5", patients=5, tested=8),
)
TEACHERS = Hospital(name="screening-centre", patients=24, tested=0)
"""Whose patients pre-train the teacher."""


def make_trial(
    folder: Path,
    *,
    seed: int = 0,
    hospitals: Sequence[Hospital] = HOSPITALS,
    teachers: Hospital = TEACHERS,
    rows: int = ROWS,
) -> int:
    """Writes films and labels into `folder`, which is new or empty; returns the number of films.

    Raises:
        DataError: pydicom is not installed.
        OSError: the folder cannot be written.
    """
    table, count = [], 0
    for number, (hospital, role, patients) in enumerate(_groups(hospitals, teachers)):
        if not patients:
            continue
        at = folder / FILMS / f"{number:02}-{hospital.name}"
        plan = Plan(patients=patients, rows=rows, seed=1000 * seed + number, scanners=(hospital.scanner,))
        count += make_films(at, plan)
        with (at / TABLE).open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        (at / TABLE).unlink()
        table += [(row["PatientID"], row["SOPInstanceUID"], row["label"], hospital.name, role) for row in found]
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("PatientID", "SOPInstanceUID", "label", SITE, ROLE))
        writer.writerows(table)
    return count


def _groups(hospitals: Sequence[Hospital], teachers: Hospital) -> list[tuple[Hospital, str, int]]:
    """Hospital, role and number of patients."""
    return [
        *((hospital, DEVICE, hospital.patients) for hospital in hospitals),
        *((hospital, HELD_OUT, hospital.tested) for hospital in hospitals),
        (teachers, TEACHER, teachers.patients),
    ]
