"""Takes a folder of mammograms in: each file becomes a film in the cache, or a reason in the manifest."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_client.data.dicom.film import FilmRefused, FilmSettings
from device_client.data.dicom.folder.cache import BYTES_MAX, FilmCache, FilmRecord
from device_client.data.dicom.folder.labels import FilmLabels
from device_client.data.dicom.folder.listing import files_of
from device_client.data.dicom.folder.progress import FilmProgress
from device_client.data.dicom.folder.taken import TakenFilm, labelled, record_of, without_copies
from device_client.data.dicom.header import read_header
from device_client.data.dicom.reading import read_film
from device_client.data.dicom.tags import text
from device_client.data.faults import DataError, needed

MANIFEST = "manifest.jsonl"
_AGAIN = frozenset({"not_readable", "too_large", "cannot_decode", "transfer_syntax", "changed"})
"""Refusals that may end without a change of the file: permissions, memory, decoders installed later."""


@dataclass(frozen=True, kw_only=True)
class FilmFolder:
    """All files of a folder."""

    files: tuple[TakenFilm, ...]
    cache: FilmCache

    @property
    def labelled(self) -> tuple[TakenFilm, ...]:
        """The films that have a label."""
        return tuple(film for film in self.files if film.usable and film.label is not None)


def take_in(
    folder: Path,
    cache: Path,
    settings: FilmSettings,
    *,
    labels: FilmLabels | None = None,
    label_tag: str = "",
    classes: Sequence[str] = (),
    bytes_max: int = BYTES_MAX,
    patience_seconds: float = 0.0,
) -> FilmFolder:
    """Reads all films of a folder that are not in the cache yet, and writes the manifest into the cache.

    Memory is bounded by one film and about a kilobyte a file. Whatever ends it, the next call goes on. Neither what it
    writes nor what it says holds an identifier, or the name of a file or folder.

    Args:
        folder: searched with all folders in it; or a DICOMDIR.
        cache: a folder of its own on the device; it is made if need be.
        settings: what films are brought to.
        labels: by film or patient; None: no file with labels.
        label_tag: keyword of a tag that holds the label instead, such as `ImageComments`.
        classes: the values of that tag that are labels; films with others have none.
        bytes_max: what the cache may take on disk.
        patience_seconds: how long to wait for another program that takes films into the cache.

    Raises:
        DataError: the folder or the cache cannot be used, pydicom is not installed, or both kinds of labels are given.
    """
    if labels is not None and label_tag:
        raise DataError("give labels from a file or from a tag, not both")
    if label_tag and not classes:
        raise DataError("labels from a tag need the names of the classes")
    needed("pydicom", extra="dicom", purpose="reading DICOM files")
    if folder.is_dir() and cache.resolve().is_relative_to(folder.resolve()):
        raise DataError("the cache lies in the folder of films, and would be read as films; put it beside that folder")
    paths = files_of(folder)
    kept = FilmCache(cache, settings, label_tag=label_tag, bytes_max=bytes_max, patience_seconds=patience_seconds)
    kept.lock()
    try:
        films = _Intake(kept, settings, label_tag).run(paths)
        films = without_copies(labelled(films, kept.pseudonyms, labels, classes))
        _warn_of_missing_labels(films, with_labels=labels is not None or bool(label_tag))
        kept.write_text(MANIFEST, "".join(f"{json.dumps(_line(film))}\n" for film in films))
    finally:
        kept.release()
    return FilmFolder(files=tuple(films), cache=kept)


class _Intake:
    def __init__(self, cache: FilmCache, settings: FilmSettings, label_tag: str) -> None:
        self._cache, self._settings, self._label_tag = cache, settings, label_tag

    def run(self, paths: Sequence[Path]) -> list[TakenFilm]:
        names = [self._name_of(path) for path in paths]
        in_use = set(names)
        progress = FilmProgress(len(paths))
        films = []
        try:
            for number, (path, name) in enumerate(zip(paths, names, strict=True), start=1):
                record, seconds = self._cache.record(name) if name else None, None
                if record is None:
                    began = progress.now()
                    record = self._read(path, name, in_use)
                    seconds = progress.now() - began
                films.append(TakenFilm(number=number, name=name, record=record))
                progress.count(number, read_seconds=seconds)
        finally:
            progress.end()
        return films

    def _name_of(self, path: Path) -> str:
        try:
            return self._cache.name_of(path)
        except OSError:
            return ""

    def _read(self, path: Path, name: str, in_use: set[str]) -> FilmRecord:
        pixels = None
        try:
            film = read_film(path, self._settings)
            record = record_of(film, self._cache.pseudonyms, tag_label=self._tag_label(path))
            pixels = film.pixels
        except FilmRefused as refused:
            record = FilmRecord(code=refused.code, reason=str(refused))
        if self._name_of(path) != name:
            return FilmRecord(code="changed", reason="the file changed while it was read; run again")
        if name and record.code not in _AGAIN:
            return self._cache.keep(name, record, pixels, in_use)
        return record

    def _tag_label(self, path: Path) -> str:
        return text(read_header(path).dataset, self._label_tag) if self._label_tag else ""


def _warn_of_missing_labels(films: Sequence[TakenFilm], *, with_labels: bool) -> None:
    """A data set leaves films without label out, and nobody should find that out by its accuracy."""
    usable = [film for film in films if film.usable]
    missing = sum(film.label is None for film in usable)
    if with_labels and missing:
        print(f"films: {missing:,} of {len(usable):,} have no label and are left out", file=sys.stderr, flush=True)


def _line(film: TakenFilm) -> dict[str, Any]:
    record = film.record
    if record.code:
        return {"number": film.number, "used": False, "code": record.code, "reason": record.reason}
    return {
        "number": film.number,
        "used": True,
        "patient": record.patient,
        "film": record.image,
        "label": film.label,
        "laterality": record.laterality,
        "view": record.view,
        "scanner": record.scanner,
        "spacing_mm": record.spacing_mm,
        "height": record.height,
        "width": record.width,
        "warnings": record.warnings,
    }
