"""Which files a folder, or a DICOMDIR, holds. Messages name no path: folders are often named after patients."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_client.data.dicom.header import quiet
from device_client.data.dicom.tags import texts, value_of
from device_client.data.faults import DataError, needed

DICOMDIR = "DICOMDIR"
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_DICOMDIR_BYTES_MAX = 128 * 2**20


def files_of(folder: Path) -> list[Path]:
    """The files of a folder and of all folders in it, in order of their paths; or those that a DICOMDIR lists.

    Links to folders are not followed, and a DICOMDIR cannot name files outside of its own folder. Hidden files, and a
    DICOMDIR among the files, are left out.

    Raises:
        DataError: there is no such folder or no file in it, a folder in it cannot be read, or the DICOMDIR is damaged.
    """
    if folder.is_dir():
        paths = sorted(_walked(folder))
    elif folder.is_file():
        paths = list(_listed(folder))
    else:
        raise DataError("the folder of films does not exist; give a folder with DICOM files, or a DICOMDIR")
    if not paths:
        raise DataError("the folder of films has no files")
    return paths


def _walked(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"a folder of films cannot be read: {error.strerror}; check its permissions") from None

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and name != DICOMDIR and path.is_file():
                yield path


def _listed(path: Path) -> Iterator[Path]:
    root = path.parent.resolve()
    for record in _records(path):
        parts = texts(record, "ReferencedFileID")
        file = root.joinpath(*parts) if parts else root
        if parts and root in file.resolve().parents:
            yield file


def _records(path: Path) -> list[Any]:
    pydicom = needed("pydicom", extra="dicom", purpose="reading DICOM files")
    records: list[Any] | None = None
    try:
        if path.stat().st_size <= _DICOMDIR_BYTES_MAX:
            with quiet():
                dataset = pydicom.dcmread(path)
                if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == _DICOMDIR_CLASS:
                    records = list(value_of(dataset, "DirectoryRecordSequence") or ())
    except Exception:  # noqa: BLE001 — pydicom raises whatever its parsing trips over, and may quote values
        records = None
    if records is None:
        raise DataError(
            "the file given as the folder of films is no readable DICOMDIR; give the folder that it lies in"
        )
    return records
