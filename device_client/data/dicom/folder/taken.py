"""Films of a folder with their labels; copies count once, and films that contradict one another do not count."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from device_client.data.dicom.film import Film, FilmRefused
from device_client.data.dicom.folder.cache import FilmRecord
from device_client.data.dicom.folder.labels import FilmLabels
from device_client.data.dicom.folder.pseudonyms import Pseudonyms

REPEATED, CONTRADICTING = "repeated", "contradicting"
"""Codes of refusals that only show in a whole folder."""
_TWO_PATIENTS = "the same film is there under several patients; find out whose it is, and remove the others"
_TWO_LABELS = "copies of the film have different labels; correct the labels"
_ONE_UID = "films that differ have one SOP Instance UID; export them again"
_REPEATED = "the same film is there already, perhaps turned or mirrored, or under another SOP Instance UID"


@dataclass(frozen=True, kw_only=True)
class TakenFilm:
    """One file of the folder."""

    number: int
    """From 1, in the order of the paths; stands for the file's name, which may identify someone."""
    name: str
    """In the cache."""
    record: FilmRecord
    label: str | None = None
    """None: it has none."""

    @property
    def usable(self) -> bool:
        """Whether it became a film."""
        return not self.record.code


def record_of(film: Film, pseudonyms: Pseudonyms, *, tag_label: str = "") -> FilmRecord:
    """What is kept of a film beside its pixels.

    Raises:
        FilmRefused: it has no patient.
    """
    identity = film.identity
    if not identity.patient:
        raise FilmRefused(
            "missing_tag", "PatientID is missing, and films are split by patient; export it with a pseudonym"
        )
    return FilmRecord(
        patient=pseudonyms.of("patient", identity.patient),
        patient_id=pseudonyms.of("patient", identity.patient_id),
        image=pseudonyms.of("image", identity.image),
        tag_label=pseudonyms.of("label", tag_label),
        laterality=film.laterality,
        view=film.view,
        scanner=film.scanner,
        spacing_mm=film.spacing_mm,
        pixel_hash=film.pixel_hash.hex(),
        height=film.pixels.shape[0],
        width=film.pixels.shape[1],
        warnings=film.warnings,
    )


def labelled(
    films: Sequence[TakenFilm], pseudonyms: Pseudonyms, labels: FilmLabels | None, classes: Sequence[str] = ()
) -> list[TakenFilm]:
    """The films with their labels, which are found by pseudonym: the cache knows no identifiers.

    Args:
        films: of a folder.
        pseudonyms: of their records.
        labels: by film or patient; None: no file with labels.
        classes: values of the tag that labels are taken from.
    """
    found = {("tag", pseudonyms.of("label", name)): name for name in classes}
    if labels is not None:
        found = {("image", pseudonyms.of("image", name)): label for name, label in labels.by_image.items()}
        found |= {("patient", pseudonyms.of("patient", name)): label for name, label in labels.by_patient.items()}

    def label_of(record: FilmRecord) -> str | None:
        keys = (
            ("tag", record.tag_label),
            ("image", record.image),
            ("patient", record.patient_id),
            ("patient", record.patient),
        )
        return next((found[key] for key in keys if key in found), None)

    return [replace(film, label=label_of(film.record)) if film.usable else film for film in films]


def labels_without_film(films: Sequence[TakenFilm], pseudonyms: Pseudonyms, labels: FilmLabels) -> int:
    """How many patients and films have a label and are not there; their names may be written in another way."""
    images = {film.record.image for film in films if film.usable}
    patients = {name for film in films if film.usable for name in (film.record.patient, film.record.patient_id)}
    return sum(pseudonyms.of("image", name) not in images for name in labels.by_image) + sum(
        pseudonyms.of("patient", name) not in patients for name in labels.by_patient
    )


def without_copies(films: Sequence[TakenFilm]) -> list[TakenFilm]:
    """The films with one copy of each, which has the label of any of them; the other copies are refused.

    A film that is there under several patients or labels is refused with all its copies, and so are films that differ
    and have one SOP Instance UID: nothing says which of them is right, and one patient could be on two sides.
    """
    refused: dict[int, FilmRecord] = {}
    label: dict[int, str | None] = {}
    for copies in _groups(films, lambda film: film.record.image):
        if len({film.record.pixel_hash for film in copies}) > 1:
            refused |= {film.number: FilmRecord(code=CONTRADICTING, reason=_ONE_UID) for film in copies}
    left = [film for film in films if film.number not in refused]
    for copies in _groups(left, lambda film: film.record.pixel_hash):
        labels = {film.label for film in copies if film.label is not None}
        patients = {film.record.patient for film in copies}
        if len(patients) > 1 or len(labels) > 1:
            record = FilmRecord(code=CONTRADICTING, reason=_TWO_PATIENTS if len(patients) > 1 else _TWO_LABELS)
            refused |= {film.number: record for film in copies}
        else:
            record = FilmRecord(code=REPEATED, reason=_REPEATED)
            refused |= {film.number: record for film in copies[1:]}
            label[copies[0].number] = next(iter(labels), None)
    return [
        replace(film, record=refused[film.number], label=None)
        if film.number in refused
        else replace(film, label=label.get(film.number, film.label))
        for film in films
    ]


def _groups(films: Sequence[TakenFilm], key: Callable[[TakenFilm], str]) -> list[list[TakenFilm]]:
    """Usable films with the same key, where there are several."""
    groups: defaultdict[str, list[TakenFilm]] = defaultdict(list)
    for film in films:
        if film.usable and key(film):
            groups[key(film)].append(film)
    return [group for group in groups.values() if len(group) > 1]
