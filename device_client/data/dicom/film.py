"""What reading one mammogram gives: a film, or a refusal with a code and a sentence that identify nobody."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from device_client.data.faults import DataError

RefusalCode = Literal[
    "not_readable",
    "not_dicom",
    "damaged",
    "too_large",
    "modality",
    "not_a_breast",
    "colour",
    "multi_frame",
    "missing_tag",
    "no_pixels",
    "size",
    "length",
    "intensity",
    "transfer_syntax",
    "cannot_decode",
]
CODES: tuple[str, ...] = get_args(RefusalCode)
PIXELS_MAX = 64_000_000
"""Chosen: the largest films of CBIS-DDSM have 39 million pixels. Checked before memory is taken."""


class FilmRefused(DataError):
    """A file is not used. The message is one sentence without identifiers, paths or anything from the file's text."""

    def __init__(self, code: RefusalCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code: RefusalCode = code

    def __reduce__(self) -> tuple[Any, ...]:
        return FilmRefused, (self.code, str(self))


@dataclass(frozen=True, kw_only=True)
class FilmSettings:
    """What a film is brought to."""

    spacing_mm: float | None
    """Side of a pixel; None: as it is in the file."""
    crop: bool
    """To the breast; labels and markers around it become 0. False: the whole film."""

    def __post_init__(self) -> None:
        if self.spacing_mm is not None and not 0.01 <= self.spacing_mm <= 10:  # noqa: PLR2004
            raise DataError(f"spacing_mm={self.spacing_mm!r} must be between 0.01 and 10 mm, or None")


@dataclass(frozen=True, kw_only=True, repr=False)
class FilmIdentity:
    """Who and what is on a film. Its text hides all of it, so that no log or exception can show it."""

    patient: str
    """Who it is, for splits: Patient ID; for CBIS-DDSM, where that names the film, the patient's part of it."""
    patient_id: str
    """Patient ID as it stands in the file, by which tables of labels name it."""
    study: str
    """Study Instance UID."""
    image: str
    """SOP Instance UID."""

    def __repr__(self) -> str:
        return "FilmIdentity(hidden)"


@dataclass(frozen=True, kw_only=True)
class Film:
    """A mammogram, ready for a network."""

    pixels: npt.NDArray[np.float32] = field(repr=False)
    """(height, width) from 0 to 1; dense tissue is bright, the chest wall is at the left."""
    laterality: str
    """L, R, or empty."""
    view: str
    """CC, MLO, …, or empty."""
    spacing_mm: float | None
    """Of `pixels`; None if the file does not say."""
    scanner: str = field(repr=False)
    """Manufacturer and model, without serial number."""
    identity: FilmIdentity
    pixel_hash: bytes = field(repr=False)
    """Of the stored values; copies of the film have the same one (`film_hash`)."""
    warnings: tuple[str, ...]
    """Sentences without identifiers."""
