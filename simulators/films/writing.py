"""Writes a drawing as a DICOM file with the tags that the Digital Mammography X-Ray Image IOD requires (PS3.3 A.27)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_client.data.faults import needed
from simulators.films.drawing import Drawing, View

SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "deflated": "1.2.840.10008.1.2.1.99",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-2000": "1.2.840.10008.1.2.4.90",
}
"""All of them lossless."""
NOTE = "SYNTHETIC: drawn by a program, shows nobody"
FILM_MM = 280.0
"""Height of a film on the patient."""
_DATE = "20000101"
_VIEW_CODES = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """How one make of scanner writes its films."""

    model: str
    bits: int
    inverted: bool
    """MONOCHROME1."""
    reduction: float
    """Its pixels are larger than the finest ones by this factor."""
    black: float
    """Stored value of the background, as a share of the full range."""
    white: float

    def rows(self, finest: int) -> int:
        """Rows of its films, where the finest scanner's have `finest`."""
        return round(finest / self.reduction)


SCANNERS = (
    Scanner(model="Alpha", bits=12, inverted=False, reduction=1.0, black=0.02, white=0.9),
    Scanner(model="Beta", bits=14, inverted=True, reduction=1.25, black=0.1, white=0.7),
)


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """Who and what a film claims to show."""

    seed: int
    patient: str
    number: int
    """Of the film, for this patient."""
    laterality: str
    view: View


def available_syntaxes() -> tuple[str, ...]:
    """The names in `SYNTAXES` that can be written here: compressed ones need a plugin of pydicom.

    Raises:
        DataError: pydicom is not installed.
    """
    pixels = _pydicom("pixels")
    uid = _pydicom("uid").UID
    return tuple(
        name
        for name, value in SYNTAXES.items()
        if not uid(value).is_encapsulated or pixels.get_encoder(uid(value)).is_available
    )


def dataset(drawing: Drawing, scanner: Scanner, labelling: Labelling) -> Any:
    """The film as pydicom's dataset, not compressed."""
    pydicom = _pydicom("dataset")
    made = pydicom.Dataset()
    _identify(made, labelling)
    _describe(made, scanner, labelling)
    _set_pixels(made, drawing, scanner, mirrored=labelling.laterality == "R")
    return made


def write(made: Any, path: Path, syntax: str) -> None:
    """Writes a dataset of `dataset` in a transfer syntax; it cannot be written again in another one.

    Raises:
        OSError: the file cannot be written.
    """
    pydicom = _pydicom("filewriter")
    uid = _pydicom("uid").UID(SYNTAXES[syntax])
    if uid.is_encapsulated:
        made.compress(uid, generate_instance_uid=False)
    made.file_meta.TransferSyntaxUID = uid
    pydicom.dcmwrite(
        path, made, implicit_vr=uid.is_implicit_VR, little_endian=True, enforce_file_format=True, overwrite=True
    )


def _identify(made: Any, labelling: Labelling) -> None:
    """Patient, study, series and instance; all of it invented."""
    uids = _pydicom("uid")
    about = [str(labelling.seed), labelling.patient]
    made.PatientID = made.PatientName = labelling.patient
    made.PatientBirthDate = made.AccessionNumber = made.ReferringPhysicianName = ""
    made.PatientSex = "F"
    made.StudyDate, made.StudyTime, made.StudyID = _DATE, "120000", "1"
    made.StudyInstanceUID = uids.generate_uid(entropy_srcs=[*about, "study"])
    made.SeriesInstanceUID = uids.generate_uid(entropy_srcs=[*about, "series", str(labelling.number)])
    made.SOPInstanceUID = uids.generate_uid(entropy_srcs=[*about, "image", str(labelling.number)])
    made.SOPClassUID = uids.DigitalMammographyXRayImageStorageForPresentation
    made.SeriesNumber = made.InstanceNumber = labelling.number + 1
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = made.ImageComments = NOTE
    made.SeriesDescription = "SYNTHETIC"
    made.file_meta = _pydicom("dataset").FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = SYNTAXES["explicit"]


def _describe(made: Any, scanner: Scanner, labelling: Labelling) -> None:
    """Equipment, anatomy and view."""
    made.Modality, made.PresentationIntentType = "MG", "FOR PRESENTATION"
    made.Manufacturer, made.ManufacturerModelName = "SYNTHETIC", scanner.model
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.ImageLaterality, made.ViewPosition = labelling.laterality, labelling.view
    made.PatientOrientation = ["A" if labelling.laterality == "L" else "P", "FL" if labelling.view == "MLO" else "L"]
    made.BodyPartExamined = made.OrganExposed = "BREAST"
    made.PositionerType, made.DetectorType = "MAMMOGRAPHIC", "DIRECT"
    made.BurnedInAnnotation, made.BreastImplantPresent = "NO", "NO"
    made.LossyImageCompression = "00"
    made.AcquisitionContextSequence = []
    made.AnatomicRegionSequence = [_code("76752008", "SCT", "Breast")]
    value, meaning = _VIEW_CODES[labelling.view]
    view = _code(value, "SCT", meaning)
    view.ViewModifierCodeSequence = []
    made.ViewCodeSequence = [view]


def _code(value: str, scheme: str, meaning: str) -> Any:
    code = _pydicom("dataset").Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _set_pixels(made: Any, drawing: Drawing, scanner: Scanner, *, mirrored: bool) -> None:
    top = (1 << scanner.bits) - 1
    pixels = drawing.pixels[:, ::-1] if mirrored else drawing.pixels
    values = np.rint((scanner.black + (scanner.white - scanner.black) * pixels) * np.float32(top)).astype("<u2")
    low, high = scanner.black * top, scanner.white * top
    if scanner.inverted:
        values = (top - values).astype("<u2")
        low, high = top - high, top - low
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PixelRepresentation = 1, 0
    made.PhotometricInterpretation = "MONOCHROME1" if scanner.inverted else "MONOCHROME2"
    made.PresentationLUTShape = "INVERSE" if scanner.inverted else "IDENTITY"
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, scanner.bits, scanner.bits - 1
    made.PixelIntensityRelationship, made.PixelIntensityRelationshipSign = "LOG", 1 if scanner.inverted else -1
    made.RescaleIntercept, made.RescaleSlope, made.RescaleType = 0, 1, "US"
    made.WindowCenter, made.WindowWidth = round((low + high) / 2), round(high - low)
    spacing = round(FILM_MM / values.shape[0], 4)
    made.PixelSpacing = made.ImagerPixelSpacing = [spacing, spacing]
    made.PixelData = values.tobytes()
    made["PixelData"].VR = "OW"


def _pydicom(module: str) -> Any:
    return needed(f"pydicom.{module}", extra="dicom", purpose="writing DICOM files")
