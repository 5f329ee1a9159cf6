"""What should have been removed before films are handed on: identifiers in tags, and text burnt into the pixels."""

from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.data.dicom.breast import Mask
from device_client.data.dicom.geometry import Image
from device_client.data.dicom.tags import text

IDENTIFYING = (
    "PatientName",
    "PatientBirthDate",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientMotherBirthName",
    "OtherPatientIDs",
    "OtherPatientNames",
    "MedicalRecordLocator",
    "AccessionNumber",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "OperatorsName",
    "RequestingPhysician",
    "StationName",
    "DeviceSerialNumber",
)
"""Of the tags that the basic profile removes or replaces (PS3.15, E.1), those with text that names someone."""
_EMPTY = frozenset({"", "ANON", "ANONYMOUS", "ANONYMIZED", "ANONYMISED", "REMOVED", "UNKNOWN", "NONE", "DEIDENTIFIED"})
_BRIGHT = 0.35
"""Of the range from the background to the brightest pixel outside of the breast."""
_STEP_MIN = 0.15
"""Of the film's full range: fainter marks cannot be read."""
_STROKES_MIN = 9
"""In one row: a line of text has two or three a letter, a marker such as `R CC` fewer."""
_ROWS_MIN = 5
_STROKE_SHARE_MAX = 0.02
"""Of the film's width; wider runs are frames and labels without text."""


def identifying_tags(dataset: Any) -> list[str]:
    """Keywords of tags that still hold something; a PatientName that repeats PatientID is a pseudonym, too."""
    patient = _plain(text(dataset, "PatientID"))
    found = []
    for name in IDENTIFYING:
        value = _plain(text(dataset, name))
        if value not in _EMPTY and not (name == "PatientName" and value == patient):
            found.append(name)
    return found


def _plain(value: str) -> str:
    return value.upper().replace("^", " ").strip(" -_*X")


def says_burnt_in(dataset: Any) -> bool:
    """Whether the tag says that identifying text is in the pixels."""
    return text(dataset, "BurnedInAnnotation").upper() == "YES"


def shows_text(film: Image, breast: Mask) -> bool:
    """Whether there seem to be lines of text outside of the breast, along the film or across it.

    Args:
        film: the whole film (row, column), not cropped.
        breast: a coarse mask of it (row, column).
    """
    row_of, column_of = (
        np.arange(count) * coarse // count for count, coarse in zip(film.shape, breast.shape, strict=True)
    )
    outside = ~breast[row_of][:, column_of]
    values = film[outside]
    if not values.size:
        return False
    background, brightest = float(np.median(values)), float(values.max())
    step = (brightest - background) * _BRIGHT
    if step < _STEP_MIN * _BRIGHT:
        return False
    marks = (film > background + step) & outside
    return _has_lines(marks) or _has_lines(marks.T)


def _has_lines(marks: npt.NDArray[np.bool_]) -> bool:
    """Whether neighbouring rows have many short runs each."""
    longest = max(3, int(marks.shape[1] * _STROKE_SHARE_MAX))
    busy = 0
    for row in marks:
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0))
        strokes = int((edges[1::2] - edges[::2] <= longest).sum())
        busy = busy + 1 if strokes >= _STROKES_MIN else 0
        if busy >= _ROWS_MIN:
            return True
    return False
