"""Task mammography on synthetic films: roles and sites of patients, labels, and what is refused."""

import csv
import shutil
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from threading import Timer

import pytest
import torch

from device_client.data.dicom.folder.dataset import FilmDataset
from device_client.data.faults import DataError
from device_client.task import SplitError, Task, TaskError
from device_client.tasks.loading import load_task
from device_client.tasks.mammography.film_network import FILM_STUDENT, FilmAugmentation, FilmClassifier
from device_client.tasks.mammography.films import CACHE, CLASSES, FILMS, LABELS, SIZE
from simulators.films.trial import Hospital, make_trial
from simulators.films.writing import SCANNERS
from tests.device_client.data.extras import extra
from wire_contract.files.file_lock import FileLock

extra("pydicom")
HOSPITALS = (
    Hospital(name="north", patients=3, tested=2),
    Hospital(name="south", patients=2, tested=0, scanner=SCANNERS[1]),
)
TEACHERS = Hospital(name="screening", patients=3, tested=0)
Row = dict[str, str]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial")
    assert make_trial(folder, hospitals=HOSPITALS, teachers=TEACHERS, rows=120) == 10 * 4
    load_task("mammography", data=folder).held_out()
    return folder


@pytest.fixture
def changed(trial: Path, tmp_path: Path) -> Callable[..., Task]:
    """The task on the same films with other labels."""

    def make(change: Callable[[Row], Row], *, columns: Sequence[str] = ("site", "role")) -> Task:
        for name in (FILMS, CACHE):
            (tmp_path / name).symlink_to(trial / name)
        with (trial / LABELS).open(newline="", encoding="utf-8") as file:
            rows = [change(row) for row in csv.DictReader(file)]
        fields = ["PatientID", "SOPInstanceUID", "label", *columns]
        with (tmp_path / LABELS).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fields, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return load_task("mammography", data=tmp_path)

    return make


def the_same(row: Row) -> Row:
    return row


def patients_of(data: object) -> set[str]:
    return set(data.persons.tolist())  # type: ignore[attr-defined]


def test_each_patient_is_on_one_side(trial: Path) -> None:
    task = load_task("mammography", data=trial)
    assert task.devices == ("north", "south")
    assert task.teacher_data is not None
    sides = [task.examples_of("north"), task.examples_of("south"), task.held_out(), task.teacher_data()]
    assert [len(patients_of(side)) for side in sides] == [3, 2, 2, 3]
    assert all(not patients_of(one) & patients_of(other) for one, other in combinations(sides, 2))


def test_films_are_shown_at_one_size_and_networks_take_them(trial: Path) -> None:
    task = load_task("mammography", data=trial)
    films = task.examples_of("south")
    assert task.labels == CLASSES
    image, label = films[0]  # type: ignore[index]
    assert image.shape == (1, *SIZE)
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert {int(films[index][1]) for index in range(8)} == {0, 1}  # type: ignore[index]
    assert int(label) in {0, 1}
    assert task.student()(image[None]).shape == (1, 2)
    assert set(films.attributes["scanner"].tolist()) == {"SYNTHETIC Beta"}  # type: ignore[union-attr]
    assert set(task.held_out().attributes["site"].tolist()) == {"north"}  # type: ignore[union-attr]


def test_a_hospitals_own_folder_needs_neither_sites_nor_roles(changed: Callable[..., Task]) -> None:
    task = changed(the_same, columns=())
    assert task.devices == ()
    assert task.teacher_data is None
    assert "organiser" in task.teacher_source
    assert len(patients_of(task.examples_of("any name"))) == 10
    with pytest.raises(TaskError, match="no film has the role held-out: add a column role"):
        task.held_out()


def test_roles_without_sites_are_those_of_one_device(changed: Callable[..., Task]) -> None:
    task = changed(the_same, columns=("role",))
    assert task.devices == ()
    assert len(patients_of(task.examples_of("any name"))) == 5
    assert len(patients_of(task.held_out())) == 2


@pytest.mark.parametrize("column", ["site", "role"])
def test_a_patient_on_two_sides_is_an_error_that_names_nobody(changed: Callable[..., Task], column: str) -> None:
    names: list[str] = []

    def one_film_elsewhere(row: Row) -> Row:
        names.append(row["PatientID"])
        return row | ({column: {"site": "south", "role": "held-out"}[column]} if len(names) == 1 else {})

    with pytest.raises(SplitError, match="is in both the") as raised:
        changed(one_film_elsewhere).examples_of("north")
    assert not any(name in str(raised.value) for name in names)


@pytest.mark.parametrize(
    ("word", "lesion"), [("normal", 0), ("benign", 1), ("malignant", 1), ("mass", 1), ("calcification", 1)]
)
def test_words_stand_for_classes(changed: Callable[..., Task], word: str, lesion: int) -> None:
    films = changed(lambda row: row | {"label": word}).held_out()
    assert {int(films[index][1]) for index in range(len(films))} == {lesion}  # type: ignore[arg-type,index]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label": "BI-RADS 4"}, "row 2: the label is none of the known ones (normal, lesion,"),
        ({"role": "test"}, "row 2: the role is none of the known ones (device, teacher, held-out)"),
        ({"site": ""}, "row 2: the site is empty"),
    ],
)
def test_wrong_words_are_an_error_with_the_row(changed: Callable[..., Task], change: dict[str, str], told: str) -> None:
    with pytest.raises(DataError) as raised:
        changed(lambda row: row | change)
    assert told in str(raised.value)


def test_a_folder_that_lacks_something_is_an_error_that_says_what(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="needs a data folder: --data FOLDER with films/"):
        load_task("mammography", data=None)
    with pytest.raises(TaskError, match=r"expected .*labels.csv beside the folder films"):
        load_task("mammography", data=tmp_path)


def test_a_second_program_waits_until_the_films_are_taken_in(trial: Path, tmp_path: Path) -> None:
    shutil.copytree(trial, tmp_path, dirs_exist_ok=True)
    held = FileLock(tmp_path / CACHE / "lock")
    Timer(0.5, held.release).start()
    assert len(patients_of(load_task("mammography", data=tmp_path).held_out())) == 2


def test_films_are_read_once_up_to_the_bound(trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task("mammography", data=trial)
    films = task.held_out()._data  # type: ignore[union-attr]
    assert isinstance(films, FilmDataset)
    read: list[str] = []
    pixels = films._cache.pixels
    monkeypatch.setattr(films._cache, "pixels", lambda name: (read.append(name), pixels(name))[1])
    monkeypatch.setattr(films, "_kept_max", 3)
    for _ in range(2):
        for index in range(len(films)):
            films[index]
    assert len(read) == 2 * len(films) - 3


def test_what_a_network_sees_does_not_depend_on_exposure() -> None:
    torch.manual_seed(0)
    network = FilmClassifier(FILM_STUDENT, 2).eval()
    films = torch.zeros(2, 1, *SIZE)
    films[:, :, 40:150, :90] = torch.rand(2, 1, 110, 90) * 0.2 + 0.2
    with torch.no_grad():
        usual, brighter = network(films), network(films * 1.2)
    assert float((usual - brighter).abs().max()) < 0.2 * float(usual.abs().max())


def test_augmented_films_keep_the_chest_wall_at_the_left() -> None:
    films = torch.zeros(16, 1, 32, 24)
    films[:, :, :, :4] = 0.5
    augmented = FilmAugmentation(shift_max=2)(films, torch.Generator().manual_seed(0))
    assert augmented.shape == films.shape
    bright = {int(film.sum(dim=(0, 1)).argmax()) for film in augmented}
    assert bright <= {0, 1, 2}
    assert len({float(film.max()) for film in augmented}) == len(films), "each has an exposure of its own"
