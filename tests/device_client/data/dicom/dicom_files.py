"""Small mammograms as DICOM files, made with pydicom."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.device_client.data.extras import extra

pydicom = extra("pydicom")

SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "big_endian": "1.2.840.10008.1.2.2",
    "deflated": "1.2.840.10008.1.2.1.99",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg_ls": "1.2.840.10008.1.2.4.80",
    "jpeg_2000": "1.2.840.10008.1.2.4.90",
    "jpeg_lossless": "1.2.840.10008.1.2.4.70",
}
"""All of them lossless."""
CANARY = {
    "PatientName": "Canary^Zoe",
    "PatientID": "CANARY-4711",
    "PatientBirthDate": "19470811",
    "AccessionNumber": "CANARYACC",
    "StudyDate": "19990321",
    "StudyInstanceUID": "1.2.826.99991",
    "SeriesInstanceUID": "1.2.826.99992",
    "SOPInstanceUID": "1.2.826.99993",
    "InstitutionName": "Canary Hospital",
    "ReferringPhysicianName": "Canary^Doc",
    "DeviceSerialNumber": "CANARYSERIAL",
}
"""A value in every identifying tag, to be found in no text."""


def breast(rows: int = 96, columns: int = 64, bits: int = 12, *, left: bool = True) -> npt.NDArray[np.int64]:
    """Stored values (row, column) of a half disc at the chest wall with texture, on a dark background."""
    y, x = np.mgrid[:rows, :columns]
    distance = np.hypot((y - rows / 2) / (rows * 0.4), x / (columns * 0.7))
    texture = np.random.default_rng(5).integers(0, max(1, (1 << bits) // 16), (rows, columns))
    values = np.where(distance < 1, (0.8 - 0.4 * distance) * (1 << bits) + texture, 0).astype(np.int64)
    return values if left else values[:, ::-1]


def dataset(values: npt.NDArray[Any], *, bits: int = 12, signed: bool = False, **tags: Any) -> Any:
    """A mammogram in memory, uncompressed."""
    allocated = 8 if bits <= 8 else 16
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = CANARY["SOPInstanceUID"]
    meta.TransferSyntaxUID = SYNTAXES["explicit"]
    made = pydicom.Dataset()
    made.file_meta = meta
    made.SOPClassUID = meta.MediaStorageSOPClassUID
    for name, value in CANARY.items():
        setattr(made, name, value)
    made.Modality, made.Manufacturer, made.ManufacturerModelName = "MG", "Maker", "Model 5"
    made.ImageLaterality, made.ViewPosition = "L", "MLO"
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = allocated, bits, bits - 1
    made.PixelRepresentation = int(signed)
    made.PixelData = values.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    made["PixelData"].VR = "OW" if allocated == 16 else "OB"
    for name, value in tags.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def content(made: Any, syntax: str = "explicit") -> bytes:
    """The file's bytes, in a transfer syntax."""
    uid = pydicom.uid.UID(SYNTAXES[syntax])
    if syntax == "jpeg_lossless":
        return _by_gdcm(content(made))
    if syntax in {"rle", "jpeg_ls", "jpeg_2000"}:
        made.compress(uid, generate_instance_uid=False)
    elif syntax == "big_endian" and made.BitsAllocated == 16:
        made.PixelData = np.frombuffer(made.PixelData, "<u2").byteswap().tobytes()
    made.file_meta.TransferSyntaxUID = uid
    written = io.BytesIO()
    pydicom.dcmwrite(
        written,
        made,
        implicit_vr=uid.is_implicit_VR,
        little_endian=uid.is_little_endian,
        enforce_file_format=True,
        overwrite=True,
    )
    return written.getvalue()


def _by_gdcm(uncompressed: bytes) -> bytes:
    import tempfile  # noqa: PLC0415 — only here

    gdcm = extra("gdcm")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.dcm", Path(folder) / "target.dcm"
        source.write_bytes(uncompressed)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(source))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(target))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return target.read_bytes()
