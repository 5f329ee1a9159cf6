"""Task mammography: whether a film shows a lesion, in a folder of DICOM mammograms of the hospital's own.

The folder has

- `films`: a folder of DICOM files;
- `labels.csv`: columns `label`, and `PatientID`, `SOPInstanceUID` or both, as `data/dicom/folder/labels.py` describes.
  Labels are the words in `WORDS`. Optional columns: `role`, which is `device`, `teacher` or `held-out`; and `site`, the
  device that has the patient, or for the other roles the hospital that the films are of;
- `cache`, which is made: the films as they are used, so that each is decoded once.

A hospital's own folder needs neither: all its films are its device's. With both columns one folder serves several
devices, the teacher and the evaluator, as in a trial. A patient has one role and is at one site; several are an error.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from device_client.data.dicom.film import FilmSettings
from device_client.data.dicom.folder.dataset import FilmDataset
from device_client.data.dicom.folder.intake import FilmFolder, take_in
from device_client.data.dicom.folder.labels import FilmLabels, has_column, read_labels
from device_client.data.dicom.folder.taken import labelled
from device_client.task import Data, Recipe, Task, TaskError, check_split, classification
from device_client.tasks.mammography.efficientnet import PretrainedFilmClassifier, has_weights, pretrained_weights
from device_client.tasks.mammography.film_network import FILM_STUDENT, FILM_TEACHER, FilmAugmentation, FilmClassifier

FILMS, LABELS, CACHE = "films", "labels.csv", "cache"
SITE, ROLE = "site", "role"
DEVICE, TEACHER, HELD_OUT = "device", "teacher", "held-out"
CLASSES = ("normal", "lesion")
WORDS: Mapping[str, str] = {
    "normal": "normal",
    "lesion": "lesion",
    "benign": "lesion",
    "malignant": "lesion",
    "mass": "lesion",
    "calcification": "lesion",
}
"""Words of labels.csv, and the class that each stands for."""
SETTINGS = FilmSettings(spacing_mm=1.0, crop=True)
"""Chosen: a mass of 5 mm has 5 pixels, and training fits a hospital's CPU. Single calcifications are lost, clusters
are not."""
SIZE = (192, 144)
"""Rows and columns of a film as the network sees it; at 1 mm, 19 by 14 cm. Larger breasts are scaled down."""
KEPT_BYTES = 512 * 2**20
"""Films kept in memory as the network sees them: 4,800 of them; further ones are read from the cache each time."""
PATIENCE_SECONDS = 3600.0
"""How long a program waits for another one that takes the same films in; chosen: thousands of films take an hour."""
RECIPE = Recipe(
    epochs=2,
    batch_size=16,
    learning_rate=2e-3,
    schedule="cosine",
    schedule_versions=40.0,
    alpha=0.3,
    temperature=2.0,
    task_loss="focal",
    focal_gamma=1.0,
    augment=FilmAugmentation(),
    teacher_epochs=20,
    teacher_batch_size=16,
    teacher_learning_rate=1e-3,
)
"""Tried on synthetic films only, by looking at their held-out patients; nothing is known about real ones."""


def task(data: Path | None) -> Task:
    """The task on the films and labels in folder `data`; films are decoded when they are first asked for.

    Raises:
        TaskError: no folder was given, or its labels are missing or not as described.
    """
    if data is None:
        raise TaskError(f"task mammography needs a data folder: --data FOLDER with {FILMS}/ and {LABELS}")
    path = data / LABELS
    if not path.is_file():
        raise TaskError(f"task mammography: expected {path} beside the folder {FILMS}")
    films = _films_of(data, path.stat().st_mtime_ns)
    return Task(
        name="mammography",
        objective=classification(CLASSES, main="auc"),
        student=lambda: FilmClassifier(FILM_STUDENT, len(CLASSES)),
        teacher=lambda: FilmClassifier(FILM_TEACHER, len(CLASSES)),
        teacher_data=(lambda: films.of(TEACHER)) if films.has(TEACHER) else None,
        teacher_source=""
        if films.has(TEACHER)
        else f"the organiser of the study, or a folder whose {LABELS} gives patients the {ROLE} {TEACHER}",
        device_data=lambda device: films.of(DEVICE, device),
        held_out=lambda: films.of(HELD_OUT),
        devices=films.devices,
        recipe=RECIPE,
    )


def task_with_pretrained_teacher(data: Path | None) -> Task:
    """The same model line with another teacher, which has learned to see from photographs (`efficientnet.py`).

    Devices with either teacher take part in the same federation: a teacher never leaves its device.

    Raises:
        TaskError: as `task`.
    """
    usual = task(data)
    teacher_data = usual.teacher_data

    def films() -> Data:
        pretrained_weights()  # says what to install; a device that has the teacher's file needs no package
        assert teacher_data is not None
        return teacher_data()

    return replace(
        usual,
        teacher=lambda: PretrainedFilmClassifier(len(CLASSES), pretrained_weights() if has_weights() else None),
        teacher_data=None if teacher_data is None else films,
        recipe=replace(RECIPE, teacher_epochs=8, teacher_learning_rate=3e-4, alpha=0.5),
    )


class HospitalFilms:
    """A folder as described above."""

    def __init__(self, folder: Path) -> None:
        """Reads the labels.

        Raises:
            DataError: they are not as described.
        """
        self._folder = folder
        path = folder / LABELS
        self._labels = _as_classes(read_labels(path, tuple(WORDS)))
        self._roles = read_labels(path, (DEVICE, TEACHER, HELD_OUT), column=ROLE) if has_column(path, ROLE) else None
        self._sites = read_labels(path, column=SITE) if has_column(path, SITE) else None

    @cached_property
    def _taken(self) -> FilmFolder:
        return take_in(
            self._folder / FILMS,
            self._folder / CACHE,
            SETTINGS,
            labels=self._labels,
            patience_seconds=PATIENCE_SECONDS,
        )

    def has(self, role: str) -> bool:
        """Whether the labels give this role to someone."""
        return self._roles is not None and role in {*self._roles.by_image.values(), *self._roles.by_patient.values()}

    @property
    def devices(self) -> tuple[str, ...]:
        """The sites of films with the role `device`; empty: there are no sites, and any device has them all."""
        if self._sites is None:
            return ()
        return tuple(sorted({site for site, role in _pairs(self._sites, self._roles) if role == DEVICE}))

    def of(self, role: str, device: str | None = None) -> FilmDataset:
        """The films of a role, and of one device only where there are sites.

        Raises:
            DataError: none of them can be used and has a label.
            SplitError: a patient is at several sites, or has several roles.
            TaskError: nobody has the role.
        """
        if role != DEVICE and not self.has(role):
            raise TaskError(
                f"task mammography: no film has the role {role}: add a column {ROLE} to {LABELS}, with {role} for some "
                f"patients and {DEVICE} for those to train on"
            )
        roles, sites = self._by_patient(self._roles), self._by_patient(self._sites)
        chosen = {
            film.record.patient
            for film in self._taken.labelled
            if roles.get(film.record.patient, DEVICE) == role
            and (role != DEVICE or not sites or sites.get(film.record.patient) == device)
        }
        films = FilmDataset(self._taken, CLASSES, SIZE, patients=chosen, kept_bytes=KEPT_BYTES)
        if sites:
            films.attributes[SITE] = np.array([sites.get(name, "") for name in films.persons.tolist()])
        return films

    def _by_patient(self, table: FilmLabels | None) -> dict[str, str]:
        """The value in a further column for each patient; checks that each patient has one only."""
        if table is None:
            return {}
        placed = labelled(self._taken.labelled, self._taken.cache.pseudonyms, table)
        patients: dict[str, set[str]] = {}
        for film in placed:
            patients.setdefault(film.label or "", set()).add(film.record.patient)
        check_split({value: np.array(sorted(own), dtype=np.str_) for value, own in patients.items()})
        return {patient: value for value, own in patients.items() for patient in own}


@lru_cache(maxsize=4)
def _films_of(folder: Path, _changed_at: int) -> HospitalFilms:
    return HospitalFilms(folder)


def _pairs(sites: FilmLabels, roles: FilmLabels | None) -> set[tuple[str, str]]:
    """Site and role of each film or patient that has a site."""
    return {
        (site, DEVICE if table is None else table.get(name, DEVICE))
        for table, named in (
            (None if roles is None else roles.by_image, sites.by_image),
            (None if roles is None else roles.by_patient, sites.by_patient),
        )
        for name, site in named.items()
    }


def _as_classes(labels: FilmLabels) -> FilmLabels:
    return FilmLabels(
        by_image={name: WORDS[word] for name, word in labels.by_image.items()},
        by_patient={name: WORDS[word] for name, word in labels.by_patient.items()},
    )
