"""Labels of films from a CSV file, by SOP Instance UID or by patient."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, TypeVar

from device_client.data.dicom.folder.pseudonyms import patient_key
from device_client.data.faults import DataError

T = TypeVar("T")
PATIENT, IMAGE, LABEL = "PatientID", "SOPInstanceUID", "label"
"""Columns. A row with a SOP Instance UID is for that film, and counts before one for its patient."""

LABELS_MAX = 32
"""Different ones; a column with more, such as names, is taken for another one than meant."""
_LINE_CHARACTERS_MAX = 1 << 16
_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")
"""How a spreadsheet writes a long number."""


@dataclass(frozen=True, kw_only=True, repr=False)
class FilmLabels:
    """Which film or patient has which label. Its text hides both."""

    by_image: Mapping[str, str] = field(default_factory=dict)
    by_patient: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "FilmLabels(hidden)"


def read_labels(path: Path, classes: Sequence[str] | None = None, *, column: str = LABEL) -> FilmLabels:
    """The labels of a CSV file with a column `label`, and `PatientID`, `SOPInstanceUID` or both.

    Columns are separated by commas, semicolons or tabs. Other columns, empty rows, case in the names of columns, and
    spaces around values are ignored.

    Args:
        path: the file, in UTF-8.
        classes: the labels there may be; None: any.
        column: which column has the labels.

    Raises:
        DataError: the file cannot be read or is not as described. The message names the row and nothing from it.
    """
    return _from(path, lambda file: _read(file, classes, column))


def has_column(path: Path, column: str) -> bool:
    """Whether the first line of a labels file names a column.

    Raises:
        DataError: the file cannot be read, or is no text in UTF-8.
    """
    return _from(path, lambda file: column.casefold() in _header(file)[0])


def _from(path: Path, read: Callable[[TextIO], T]) -> T:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return read(file)
    except OSError as error:
        raise DataError(f"the labels file cannot be read: {error.strerror or 'unknown error'}") from None
    except (UnicodeDecodeError, csv.Error):
        fault = DataError("the labels file is no CSV file in UTF-8; in a spreadsheet, save it as 'CSV UTF-8'")
    raise fault  # outside of the handler: the error would quote what the file holds


def _read(file: TextIO, classes: Sequence[str] | None, column: str) -> FilmLabels:
    by_image: dict[str, str] = {}
    by_patient: dict[str, str] = {}
    for where, label, image, patient in _rows(file, column):
        if not label:
            raise DataError(f"{where}: the {column} is empty")
        if classes is not None and label not in classes:
            raise DataError(f"{where}: the {column} is none of the known ones ({', '.join(classes)})")
        for name, value in ((IMAGE, image), (PATIENT, patient)):
            if _ROUNDED.fullmatch(value):
                raise DataError(
                    f"{where}: a spreadsheet has rounded the {name} to a number such as 1.2E+45; write the file again "
                    "with this column as text"
                )
        table, key = (by_image, image) if image else (by_patient, patient_key(patient))
        if not key:
            raise DataError(f"{where}: neither {PATIENT} nor {IMAGE} is given")
        if table.setdefault(key, label) != label:
            raise DataError(f"{where}: the same film or patient had another label before")
    if len({*by_image.values(), *by_patient.values()}) > LABELS_MAX:
        raise DataError(f"the labels file has more than {LABELS_MAX} different labels; is {column} the right column?")
    if not by_image and not by_patient:
        raise DataError("the labels file has no rows")
    return FilmLabels(by_image=by_image, by_patient=by_patient)


def _rows(file: TextIO, column: str) -> Iterator[tuple[str, str, str, str]]:
    """Which row, its label, its SOP Instance UID and its Patient ID, without empty rows."""
    header, separator = _header(file)
    wanted = [name.casefold() for name in (column, IMAGE, PATIENT)]
    counts = [header.count(name) for name in wanted]
    if counts[0] != 1 or max(counts) > 1 or sum(counts) == 1:
        raise DataError(
            f"the labels file needs one column {column}, and {PATIENT} or {IMAGE}, separated by commas, semicolons or "
            "tabs, with these names in its first line"
        )
    for number, row in enumerate(csv.reader(file, delimiter=separator), start=2):
        values = dict(zip(header, (value.strip() for value in row), strict=False))
        if any(value.strip() for value in row):
            label, image, patient = (values.get(name, "") for name in wanted)
            yield f"the labels file, row {number:,}", label, image, patient


def _header(file: TextIO) -> tuple[list[str], str]:
    """The names of the columns in lower case, and what separates them."""
    first = file.readline(_LINE_CHARACTERS_MAX)
    if first.lower().startswith("sep="):  # how spreadsheets note the separator
        first = file.readline(_LINE_CHARACTERS_MAX)
    separator = max(",;\t", key=first.count)
    return [name.strip().casefold() for name in next(csv.reader([first], delimiter=separator), [])], separator
