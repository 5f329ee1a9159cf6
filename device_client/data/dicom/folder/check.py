"""Looks through a folder of mammograms before it is used: what can be used, and what should have been removed."""

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_client.data.dicom.breast import find_breast
from device_client.data.dicom.film import Film, FilmRefused, FilmSettings
from device_client.data.dicom.folder.cache import FilmRecord
from device_client.data.dicom.folder.labels import FilmLabels
from device_client.data.dicom.folder.left_behind import identifying_tags, says_burnt_in, shows_text
from device_client.data.dicom.folder.listing import files_of
from device_client.data.dicom.folder.progress import FilmProgress
from device_client.data.dicom.folder.pseudonyms import KEY_BYTES, Pseudonyms, patient_key
from device_client.data.dicom.folder.taken import (
    REPEATED,
    TakenFilm,
    labelled,
    labels_without_film,
    record_of,
    without_copies,
)
from device_client.data.dicom.header import read_header
from device_client.data.dicom.reading import read_film
from device_client.data.dicom.tags import text
from device_client.data.faults import needed

UNLABELLED = "(no label)"
_WHOLE = FilmSettings(spacing_mm=None, crop=False)


@dataclass(kw_only=True)
class FolderReport:
    """Counts; nothing in it identifies anyone."""

    files: int = 0
    usable: int = 0
    repeated: int = 0
    """Films that are there twice; the second one is not used."""
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By code and reason."""
    classes: Counter[str] = field(default_factory=Counter)
    """Films of each class."""
    patients_of: dict[str, set[int]] = field(default_factory=dict)
    """Patients of each class, numbered in the order in which they were found."""
    films_of: Counter[int] = field(default_factory=Counter)
    """Films of each patient."""
    scanners: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    labels_without_film: int = 0
    """Rows of the labels, without repetitions, whose patient or film is not there."""
    labels_with_zeros: int = 0
    """Those of them whose patient is there with leading zeros, which spreadsheets remove."""
    warnings: Counter[str] = field(default_factory=Counter)
    identifying: Counter[str] = field(default_factory=Counter)
    """Films by keyword of a tag that should have been emptied."""
    said_burnt_in: int = 0
    seems_burnt_in: int = 0
    """Films that show marks like text outside of the breast, whatever the tag says."""


def look_through(folder: Path, labels: FilmLabels | None = None) -> FolderReport:
    """Reads every film once and keeps nothing.

    Raises:
        DataError: the folder cannot be used, or pydicom is not installed.
    """
    needed("pydicom", extra="dicom", purpose="reading DICOM files")
    paths = files_of(folder)
    report, pseudonyms = FolderReport(files=len(paths)), Pseudonyms(secrets.token_bytes(KEY_BYTES))
    progress = FilmProgress(len(paths))
    films, patient_ids = [], set[str]()
    try:
        for number, path in enumerate(paths, start=1):
            began = progress.now()
            try:
                film = _look_at(path, report)
                record = record_of(film, pseudonyms)
                patient_ids.add(patient_key(film.identity.patient_id))
            except FilmRefused as refused:
                record = FilmRecord(code=refused.code, reason=str(refused))
            films.append(TakenFilm(number=number, name="", record=record))
            progress.count(number, read_seconds=progress.now() - began)
    finally:
        progress.end()
    if labels is not None:
        report.labels_without_film = labels_without_film(films, pseudonyms, labels)
        named = {patient_key(name) for name in labels.by_patient}
        report.labels_with_zeros = len((named - patient_ids) & {name.lstrip("0") for name in patient_ids - named})
    patients: dict[str, int] = {}
    for taken in without_copies(labelled(films, pseudonyms, labels)):
        _count(taken, report, patients, with_labels=labels is not None)
    return report


def _look_at(path: Path, report: FolderReport) -> Film:
    dataset = read_header(path).dataset
    if not text(dataset, "Modality"):
        return read_film(path, _WHOLE)  # no image: refused with its reason
    report.identifying.update(identifying_tags(dataset))
    report.said_burnt_in += says_burnt_in(dataset)
    film = read_film(path, _WHOLE)
    report.seems_burnt_in += shows_text(film.pixels, find_breast(film.pixels).mask)
    return film


def _count(film: TakenFilm, report: FolderReport, patients: dict[str, int], *, with_labels: bool) -> None:
    record = film.record
    if record.code == REPEATED:
        report.repeated += 1
        return
    if record.code:
        report.refused[record.code, record.reason] += 1
        return
    patient = patients.setdefault(record.patient, len(patients) + 1)
    report.usable += 1
    report.films_of[patient] += 1
    report.scanners[record.scanner or "(unknown)"] += 1
    report.views[f"{record.laterality or '?'} {record.view or '?'}"] += 1
    report.warnings.update(record.warnings)
    if with_labels:
        label = UNLABELLED if film.label is None else film.label
        report.classes[label] += 1
        report.patients_of.setdefault(label, set()).add(patient)


# For people and for programs


def as_json(report: FolderReport) -> dict[str, Any]:
    """The counts."""
    return {
        "files": report.files,
        "usable": report.usable,
        "repeated": report.repeated,
        "patients": {f"patient-{number}": films for number, films in report.films_of.items()},
        "classes": {
            label: {"films": films, "patients": len(report.patients_of[label])}
            for label, films in sorted(report.classes.items())
        },
        "labels_without_film": report.labels_without_film,
        "labels_with_zeros": report.labels_with_zeros,
        "refused": [
            {"code": code, "reason": reason, "files": files} for (code, reason), files in report.refused.most_common()
        ],
        "scanners": dict(report.scanners.most_common()),
        "views": dict(report.views.most_common()),
        "warnings": dict(report.warnings.most_common()),
        "identifying_tags": dict(report.identifying.most_common()),
        "burnt_in_by_tag": report.said_burnt_in,
        "burnt_in_by_look": report.seems_burnt_in,
    }


def shown(report: FolderReport) -> list[str]:
    """Lines for a terminal."""
    films = list(report.films_of.values())
    most = f" to {max(films)}" if films and max(films) > min(films) else ""
    each = f", each with {min(films)}{most} films" if films else ""
    lines = [f"{report.usable:,} of {report.files:,} files can be used; {len(films):,} patients{each}"]
    if report.repeated:
        lines.append(f"repeated {report.repeated:,}: films that are there already")
    for label, count in sorted(report.classes.items()):
        lines.append(f"class    {label}: {count:,} films of {len(report.patients_of[label]):,} patients")
    if report.labels_without_film:
        lines.append(
            f"note     {report.labels_without_film:,} labels are of patients or films that are not there, or are "
            "written otherwise there"
        )
    if report.labels_with_zeros:
        lines.append(
            f"WARNING  {report.labels_with_zeros:,} labels lack the leading zeros of their PatientID; write the labels "
            "again with this column as text"
        )
    lines += _counted("scanner  ", report.scanners)
    lines.append("views    " + ", ".join(f"{view}: {count:,}" for view, count in report.views.most_common()))
    for (code, reason), count in report.refused.most_common():
        lines.append(f"refused  {count:,} {code}: {reason}")
    lines += _counted("note     ", report.warnings)
    if report.identifying:
        names = ", ".join(f"{name} ({count:,})" for name, count in report.identifying.most_common())
        lines.append(f"WARNING  tags that identify someone are filled in; empty or replace them (files): {names}")
    if report.said_burnt_in:
        lines.append(
            f"WARNING  files that say of themselves that text is burnt in: {report.said_burnt_in:,}; look at them"
        )
    if report.seems_burnt_in:
        lines.append(
            f"WARNING  films that seem to show text outside of the breast: {report.seems_burnt_in:,}; look at them"
        )
    return lines


def _counted(head: str, counts: Counter[str]) -> Sequence[str]:
    return [f"{head}{text}: {count:,}" for text, count in counts.most_common()]
