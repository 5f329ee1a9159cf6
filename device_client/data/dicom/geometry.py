"""Where a film's pixels are on the patient: spacing, laterality, view, and on which side the chest wall is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.data.dicom.tags import numbers, text, texts, value_of

Image = npt.NDArray[np.float32]
VIEWS = frozenset(
    {"CC", "MLO", "ML", "LM", "LMO", "FB", "SIO", "ISO", "XCC", "XCCL", "XCCM", "CV", "AT", "SPECIMEN", "RL", "RM"}
)
"""By PS3.3 C.8.11.7, without the modifiers."""
_VIEW_MEANINGS = {
    "cranio-caudal": "CC",
    "craniocaudal": "CC",
    "medio-lateral oblique": "MLO",
    "mediolateral oblique": "MLO",
    "medio-lateral": "ML",
    "medial-lateral": "ML",
    "mediolateral": "ML",
    "latero-medial": "LM",
    "lateromedial": "LM",
    "latero-medial oblique": "LMO",
    "lateromedial oblique": "LMO",
    "caudo-cranial": "FB",
    "caudo-cranial (from below)": "FB",
    "superolateral to inferomedial oblique": "SIO",
    "inferomedial to superolateral oblique": "ISO",
    "cranio-caudal exaggerated laterally": "XCCL",
    "cranio-caudal exaggerated medially": "XCCM",
}
_VIEW_CODES = {
    "R-10242": "CC",
    "399162004": "CC",
    "R-10226": "MLO",
    "399368009": "MLO",
    "R-10224": "ML",
    "399260004": "ML",
    "R-10228": "LM",
    "399352003": "LM",
    "R-10230": "LMO",
    "399099002": "LMO",
    "R-10244": "FB",
    "399196006": "FB",
    "R-102D0": "SIO",
    "399188001": "SIO",
    "R-40AAA": "ISO",
    "441555000": "ISO",
    "R-1024A": "XCCL",
    "399192008": "XCCL",
    "R-1024B": "XCCM",
    "399101009": "XCCM",
}
"""SNOMED, in the older and the newer spelling (PS3.16 CID 4014)."""
_SPACING_MIN_MM, _SPACING_MAX_MM = 0.01, 2.0
_BLOCK_ROWS, _BLOCK_COLUMNS = 64, 1024
"""Summed at a time: bounds the memory of `averaged`."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What the tags say."""

    laterality: str
    view: str
    spacing_mm: tuple[float, float] | None
    """Between rows, between columns."""
    chest_left: bool | None
    """None: the tags do not say."""
    head_down: bool


def placement(dataset: Any, warnings: list[str]) -> Placement:
    """Laterality, view, spacing and orientation."""
    orientation = [one.upper() for one in texts(dataset, "PatientOrientation")]
    laterality = _laterality(dataset)
    toward = orientation[0][:1] if len(orientation) == 2 else ""  # noqa: PLR2004 — along a row, along a column
    along = orientation[1][:1] if len(orientation) == 2 else ""  # noqa: PLR2004
    chest_left = {"A": True, "P": False}.get(toward)
    if chest_left is None and laterality:
        chest_left = laterality == "L"
    return Placement(
        laterality=laterality,
        view=_view(dataset, orientation),
        spacing_mm=_spacing(dataset, warnings),
        chest_left=chest_left,
        head_down=along == "H",
    )


def _laterality(dataset: Any) -> str:
    for name in ("ImageLaterality", "Laterality", "FrameLaterality"):
        if (found := text(dataset, name).upper()[:1]) in {"L", "R"}:
            return found
    return ""


def _view(dataset: Any, orientation: list[str]) -> str:
    if (found := text(dataset, "ViewPosition").upper()) in VIEWS:
        return found
    sequence = value_of(dataset, "ViewCodeSequence")
    if sequence:
        by_code = _VIEW_CODES.get(text(sequence[0], "CodeValue"))
        by_meaning = _VIEW_MEANINGS.get(text(sequence[0], "CodeMeaning").lower())
        if found := by_code or by_meaning or "":
            return found
    return orientation[0] if len(orientation) == 1 and orientation[0] in VIEWS else ""  # as in CBIS-DDSM


def _spacing(dataset: Any, warnings: list[str]) -> tuple[float, float] | None:
    """On the patient: PixelSpacing; or at the detector, divided by the magnification; or at the film's scanner."""
    magnification = (numbers(dataset, "EstimatedRadiographicMagnificationFactor") or [1.0])[0]
    if not 0.5 <= magnification <= 10:  # noqa: PLR2004
        magnification = 1.0
    for name, factor in (
        ("PixelSpacing", 1.0),
        ("ImagerPixelSpacing", magnification),
        ("NominalScannedPixelSpacing", 1.0),
    ):
        found = numbers(dataset, name)
        if len(found) == 2:  # noqa: PLR2004
            pair = (found[0] / factor, found[1] / factor)
            if all(_SPACING_MIN_MM <= one <= _SPACING_MAX_MM for one in pair):
                return pair
            warnings.append(f"{name} is not a film's and is not used")
    return None


def averaged(image: Image, height: int, width: int) -> Image:
    """An image of another size: each new pixel is the mean over its area of the old ones."""
    narrow = np.concatenate(
        [_averaged_columns(image[at : at + _BLOCK_ROWS], width) for at in range(0, len(image), _BLOCK_ROWS)]
    )
    if len(image) == height:
        return np.ascontiguousarray(narrow)
    columns = [_averaged_rows(narrow[:, at : at + _BLOCK_COLUMNS], height) for at in range(0, width, _BLOCK_COLUMNS)]
    return np.ascontiguousarray(np.concatenate(columns, axis=1))


def _averaged_columns(image: Image, width: int) -> Image:
    """By differences of the integral along each row, at fractional edges."""
    if image.shape[1] == width:
        return image
    integral = np.zeros((len(image), image.shape[1] + 1), dtype=np.float64)
    np.cumsum(image, axis=1, dtype=np.float64, out=integral[:, 1:])
    whole, part = _edges(image.shape[1], width)
    at_edges = integral[:, whole] * (1 - part) + integral[:, whole + 1] * part
    mean: Image = (np.diff(at_edges, axis=1) * (width / image.shape[1])).astype(np.float32)
    return mean


def _averaged_rows(image: Image, height: int) -> Image:
    """The same along each column."""
    integral = np.zeros((len(image) + 1, image.shape[1]), dtype=np.float64)
    for row, values in enumerate(image):  # `cumsum` along columns gives the same sums, but takes several times longer
        np.add(integral[row], values, out=integral[row + 1])
    whole, part = _edges(len(image), height)
    at_edges = integral[whole] * (1 - part[:, None]) + integral[whole + 1] * part[:, None]
    mean: Image = (np.diff(at_edges, axis=0) * (height / len(image))).astype(np.float32)
    return mean


def _edges(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Where the new pixels begin among the old ones: the old pixel, and the part of it that lies before."""
    edges = np.linspace(0, old, new + 1)
    whole = np.minimum(edges.astype(np.int64), old - 1)
    return whole, edges - whole
