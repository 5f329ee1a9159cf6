"""Labels of films from a CSV file, by SOP Instance UID or by patient."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from device_client.data.faults import DataError

PATIENT, IMAGE, LABEL = "PatientID", "SOPInstanceUID", "label"
"""Columns. A row with a SOP Instance UID is for that film, and counts before one for its patient."""

LABELS_MAX = 32
"""Different ones; a column with more, such as names, is taken for another one than meant."""


@dataclass(frozen=True, kw_only=True, repr=False)
class FilmLabels:
    """Which film or patient has which label. Its text hides both."""

    by_image: Mapping[str, str] = field(default_factory=dict)
    by_patient: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "FilmLabels(hidden)"


def read_labels(path: Path, classes: Sequence[str] | None = None, *, column: str = LABEL) -> FilmLabels:
    """The labels of a CSV file with a column `label`, and `PatientID`, `SOPInstanceUID` or both.

    Args:
        path: the file, in UTF-8.
        classes: the labels there may be; None: any.
        column: which column has the labels.

    Raises:
        DataError: the file cannot be read or is not as described. The message names the row and nothing from it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read(csv.DictReader(file), classes, column)
    except OSError as error:
        raise DataError(f"the labels file cannot be read: {error.strerror or 'unknown error'}") from None
    except (UnicodeDecodeError, csv.Error):
        fault = DataError("the labels file is no CSV file in UTF-8")
    raise fault  # outside of the handler: the error would quote what the file holds


def _read(rows: "csv.DictReader[str]", classes: Sequence[str] | None, column: str) -> FilmLabels:
    columns = set(rows.fieldnames or ())
    if column not in columns or not {PATIENT, IMAGE} & columns:
        raise DataError(f"the labels file needs the columns {column}, and {PATIENT} or {IMAGE}")
    by_image: dict[str, str] = {}
    by_patient: dict[str, str] = {}
    for row in rows:
        label = (row.get(column) or "").strip()
        image, patient = ((row.get(key) or "").strip() for key in (IMAGE, PATIENT))
        place = f"the labels file, row {rows.line_num:,}"
        if not label or (classes is not None and label not in classes):
            raise DataError(f"{place}: the label is {'empty' if not label else 'none of the classes'}")
        table, key = (by_image, image) if image else (by_patient, patient)
        if not key:
            raise DataError(f"{place}: neither {PATIENT} nor {IMAGE} is given")
        if table.setdefault(key, label) != label:
            raise DataError(f"{place}: the same film or patient had another label before")
    if len({*by_image.values(), *by_patient.values()}) > LABELS_MAX:
        raise DataError(f"the labels file has more than {LABELS_MAX} different labels; is {column} the right column?")
    if not by_image and not by_patient:
        raise DataError("the labels file has no rows")
    return FilmLabels(by_image=by_image, by_patient=by_patient)
