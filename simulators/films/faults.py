"""Files that a folder of films also has: damaged, of another kind, or with what should have been removed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from device_client.data.faults import needed
from simulators.films.writing import write

WRITTEN_TEXT = "DOE JANE  1950-01-01"
"""An invented name, burnt into a film or left in a tag."""


def write_fault(name: str, made: Any, folder: Path) -> None:
    """Turns a film into a faulty file `fault-NAME` in a folder.

    Args:
        name: one of `FAULTS`.
        made: the film, of `simulators.films.writing.dataset`, not compressed.
        folder: for the file.
    """
    path = folder / f"fault-{name}"
    change = _CHANGES.get(name)
    if change is not None:
        change(made)
        write(made, path, "explicit")
    elif name == "damaged":
        write(made, path, "explicit")
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_text("not a film\n")


def burn_text(made: Any, text: str = WRITTEN_TEXT) -> None:
    """Writes a line of text into the film's pixels, in the upper corner away from the chest wall."""
    image, draw, font = (
        needed(f"PIL.{part}", extra="dicom", purpose="writing text into films")
        for part in ("Image", "ImageDraw", "ImageFont")
    )
    values = np.frombuffer(made.PixelData, "<u2").reshape(made.Rows, made.Columns).copy()
    size = max(9, made.Rows // 40)
    face = font.load_default(size=size)
    width = int(face.getlength(text)) + 2
    sheet = image.new("L", (width, size + 6), 0)
    draw.Draw(sheet).text((1, 1), text, fill=255, font=face)
    letters = np.asarray(sheet)[:, : made.Columns // 2 * 2] > 127  # noqa: PLR2004 — half of white
    left = 2 if made.ImageLaterality == "R" else max(0, made.Columns - letters.shape[1] - 2)
    part = values[4 : 4 + letters.shape[0], left : left + letters.shape[1]]
    top = (1 << made.BitsStored) - 1
    part[letters[:, : part.shape[1]]] = 0 if made.PhotometricInterpretation == "MONOCHROME1" else top
    made.PixelData = values.tobytes()
    made["PixelData"].VR = "OW"


def _burnt_in(made: Any) -> None:
    burn_text(made)


def _burnt_in_and_said(made: Any) -> None:
    burn_text(made)
    made.BurnedInAnnotation = "YES"


def _identified(made: Any) -> None:
    made.PatientName, made.PatientBirthDate = "Doe^Jane", "19500101"
    made.InstitutionName, made.AccessionNumber = "Invented Hospital", "A123"
    made.PatientIdentityRemoved = "NO"


def _other_modality(made: Any) -> None:
    made.Modality = "CT"


def _colour(made: Any) -> None:
    values = np.frombuffer(made.PixelData, "<u2") >> (made.BitsStored - 8)
    made.PixelData = np.repeat(values.astype(np.uint8), 3).tobytes()
    made["PixelData"].VR = "OB"
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7


def _multi_frame(made: Any) -> None:
    made.NumberOfFrames = 2
    made.PixelData = made.PixelData * 2


def _no_rows(made: Any) -> None:
    del made.Rows


def _no_patient(made: Any) -> None:
    made.PatientID = ""


_CHANGES: dict[str, Callable[[Any], None]] = {
    "modality": _other_modality,
    "colour": _colour,
    "multi-frame": _multi_frame,
    "missing-tag": _no_rows,
    "no-patient": _no_patient,
    "burnt-in": _burnt_in,
    "burnt-in-tag": _burnt_in_and_said,
    "identifiers": _identified,
}
FAULTS = ("damaged", "not-dicom", *_CHANGES)
"""The last three are films that can be used, but should not be handed out as they are."""
