"""Films a second, and memory, of `read_film` beside pydicom's `pixel_array`, which only decodes.

Each is measured in a process of its own, for each transfer syntax. The first film is not counted: it imports pydicom
and begins the decoder. With `--folder-films`, a folder of synthetic films is taken in, too.
"""

import multiprocessing
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.settings import DicomSettings
from device_client.data.dicom.decoding.decoder import DECODER
from device_client.data.dicom.film import FilmRefused, FilmSettings
from device_client.data.dicom.folder.intake import take_in
from device_client.data.dicom.header import read_header
from device_client.data.dicom.reading import read_film
from device_client.data.faults import DataError, needed
from simulators.films.folder import Plan, make_films

FOLDER_ROWS_MIN = 200
"""Of the films of a folder: in smaller ones the breast is not found."""
SYNTAXES = {
    "1.2.840.10008.1.2": "implicit",
    "1.2.840.10008.1.2.1": "explicit",
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.5": "RLE",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
MADE = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
)


def run(settings: DicomSettings) -> dict[str, Any]:
    """Reads the films both ways; returns the figures.

    Raises:
        DataError: pydicom is not installed, or no file of the folder is a DICOM file.
    """
    needed("pydicom", extra="dicom", purpose="reading DICOM files")
    with tempfile.TemporaryDirectory() as folder:
        groups = _made(Path(folder), settings.rows) if settings.data is None else _found(settings.data)
        rows = []
        for syntax, paths in groups.items():
            chosen = [
                paths[at % len(paths)]
                for at in range(settings.films if settings.data is None else min(settings.films, len(paths)))
            ]
            ours, plain = (_measured(read, chosen) for read in (_ours, _plain))
            rows.append({"syntax": SYNTAXES.get(syntax, syntax), "films": len(chosen), "ours": ours, "pydicom": plain})
        return {"rows": rows, "folder": _folder(Path(folder), settings) if settings.folder_films else None}


def table(figures: Mapping[str, Any]) -> str:
    """One row for each transfer syntax."""
    lines = [
        f"{'':20} {'films':>6} {'films/s':>8} {'pydicom':>8} {'MB':>6} {'decoder':>8} {'pydicom':>8} {'refused':>8}"
    ]
    for row in figures["rows"]:
        ours, plain = row["ours"], row["pydicom"]
        lines.append(
            f"{row['syntax']:20} {row['films']:6d} {ours['films_per_second']:8.2f} {plain['films_per_second']:8.2f} "
            f"{ours['memory_mb']:6.0f} {ours['decoder_mb']:8.0f} {plain['memory_mb']:8.0f} {ours['refused']:8d}"
        )
    if figures["folder"]:
        lines += ["", f"{'folder':20} {'films':>6} {'films/s':>8} {'MB':>6} {'decoder':>8} {'on disk':>8}"]
        for name, one in figures["folder"].items():
            lines.append(
                f"{name:20} {one['films']:6d} {one['films_per_second']:8.2f} {one['memory_mb']:6.0f} "
                f"{one['decoder_mb']:8.0f} {one['disk_mb']:8.0f}"
            )
    return "\n".join(lines)


def _folder(place: Path, settings: DicomSettings) -> dict[str, Any]:
    """A folder of synthetic films taken in twice, each time by a process of its own: by reading, and from the cache."""
    films = place / "films"
    rows = max(settings.rows, FOLDER_ROWS_MIN)
    count = make_films(films, Plan(patients=-(-settings.folder_films // 4), rows=rows))
    figures = {}
    for name in ("read", "from the cache"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures[name] = pool.apply(_taken_in, (films, place / "cache"))
        if figures[name]["films"] != count:
            raise DataError(f"{figures[name]['films']} of {count} synthetic films were taken in")
    return figures


def _taken_in(films: Path, cache: Path) -> dict[str, Any]:
    began = time.perf_counter()
    taken = take_in(films, cache, FilmSettings(spacing_mm=0.2, crop=True))
    seconds = time.perf_counter() - began
    usable = sum(film.usable for film in taken.files)
    figures = {
        "films": usable,
        "films_per_second": usable / seconds,
        "memory_mb": _peak_mb(os.getpid()),
        "decoder_mb": sum(_peak_mb(child.pid) for child in psutil.Process().children()),
        "disk_mb": sum(path.stat().st_size for path in cache.iterdir()) / 1e6,
    }
    DECODER.close()
    return figures


def _made(folder: Path, rows: int) -> dict[str, list[Path]]:
    """One film for each transfer syntax: half a disc with grain, 12 bits."""
    pydicom = needed("pydicom", extra="dicom", purpose="reading DICOM files")
    y, x = np.mgrid[:rows, : rows * 3 // 4].astype(np.float32)
    distance = np.hypot((y - rows / 2) / (rows * 0.4), x / (rows * 0.5))
    grain = np.random.default_rng(0).integers(0, 32, distance.shape)
    values = np.where(distance < 1, 3000 - 1500 * distance + grain, 0).astype("<u2")
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    made.SOPInstanceUID = made.StudyInstanceUID = made.SeriesInstanceUID = pydicom.uid.generate_uid()
    made.Modality, made.ImageLaterality, made.ViewPosition, made.PatientID = "MG", "L", "MLO", "made"
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PixelSpacing = [0.07, 0.07]
    groups = {}
    for syntax in MADE:
        uid = pydicom.uid.UID(syntax)
        made.PixelData = values.tobytes()
        made["PixelData"].VR = "OW"
        made["PixelData"].is_undefined_length = False
        made.file_meta.TransferSyntaxUID = MADE[0]
        if uid.is_encapsulated:
            made.compress(uid, generate_instance_uid=False)
        made.file_meta.TransferSyntaxUID = uid
        path = folder / f"{syntax}.dcm"
        pydicom.dcmwrite(path, made, enforce_file_format=True, implicit_vr=False, little_endian=True)
        groups[syntax] = [path]
    return groups


def _found(folder: Path) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            groups[read_header(path).transfer_syntax].append(path)
        except FilmRefused:
            continue
    if not groups:
        raise DataError(f"{folder} holds no DICOM files")
    return groups


def _measured(read: Any, paths: Sequence[Path]) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        figures: dict[str, Any] = pool.apply(_timed, (read, paths))
    return figures


def _timed(read: Any, paths: Sequence[Path]) -> dict[str, Any]:
    read(paths[0])
    began = time.perf_counter()
    refused = sum(not read(path) for path in paths)
    seconds = time.perf_counter() - began
    figures = {
        "films_per_second": len(paths) / seconds,
        "memory_mb": _peak_mb(os.getpid()),
        "decoder_mb": sum(_peak_mb(child.pid) for child in psutil.Process().children()),
        "refused": refused,
    }
    DECODER.close()
    return figures


def _peak_mb(process: int) -> float:
    """Not `ru_maxrss`, which a started process inherits from the one that started it."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e6


def _ours(path: Path) -> bool:
    try:
        read_film(path, FilmSettings(spacing_mm=0.1, crop=True))
    except FilmRefused:
        return False
    return True


def _plain(path: Path) -> bool:
    pydicom = needed("pydicom", extra="dicom", purpose="reading DICOM files")
    try:
        return bool(pydicom.dcmread(path).pixel_array.size)
    except Exception:  # noqa: BLE001 — whatever pydicom raises about a film
        return False
