"""A film counts once however it was copied, and stands on one side of a split, in whatever folders its copies lie."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from device_client.data.dicom.film import FilmSettings
from device_client.data.dicom.film_hash import film_hash
from device_client.data.dicom.folder.check import look_through
from device_client.data.dicom.folder.dataset import FilmDataset
from device_client.data.dicom.folder.intake import FilmFolder, take_in
from device_client.data.dicom.folder.labels import FilmLabels
from device_client.data.fingerprints import fingerprints, in_common
from device_client.data.leakage import side_of, tensors_of
from device_client.task import SplitError, Task
from device_client.tasks.checking import checked
from simulators.films.folder import Plan, films_of
from simulators.films.writing import write
from tests.device_client.data.extras import extra

extra("pydicom")
generate_uid = extra("pydicom.uid").generate_uid
SETTINGS = FilmSettings(spacing_mm=3.0, crop=True)
CLASSES = ("no", "yes")
Change = Callable[[Any], None]


def put(folder: Path, *changes: Change, seed: int = 0) -> None:
    """Writes one film for each change, all of the drawing of this seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for change in changes:
        film, _row = next(films_of(Plan(patients=1, rows=200, seed=seed)))
        change(film)
        write(film, folder / f"film-{len(list(folder.iterdir()))}", "explicit")


def as_it_is(_film: Any) -> None:
    pass


def new_uid(film: Any) -> None:
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = generate_uid()


def mirrored(film: Any) -> None:
    new_uid(film)
    values = np.frombuffer(film.PixelData, "<u2").reshape(film.Rows, film.Columns)
    film.PixelData = np.ascontiguousarray(values[:, ::-1]).tobytes()
    film.ImageLaterality = "R"


def upside_down(film: Any) -> None:
    new_uid(film)
    film.PixelData = np.frombuffer(film.PixelData, "<u2")[::-1].tobytes()
    film.ImageLaterality = "R"


def negative(film: Any) -> None:
    new_uid(film)
    film.PixelData = (np.frombuffer(film.PixelData, "<u2") ^ np.uint16((1 << film.BitsStored) - 1)).tobytes()
    film.PhotometricInterpretation = "MONOCHROME1"


def of_patient(name: str, change: Change = new_uid) -> Change:
    def changed(film: Any) -> None:
        change(film)
        film.PatientID = name

    return changed


def with_pixels_changed(film: Any) -> None:
    film.PixelData = film.PixelData[:-2] + b"\x05\x00"


def taken(folder: Path, labels: FilmLabels | None = None) -> FilmFolder:
    return take_in(folder, folder.with_name(f"{folder.name}-cache"), SETTINGS, labels=labels)


def codes(folder: FilmFolder) -> list[str]:
    return [film.record.code for film in folder.files]


# One hash


@pytest.mark.parametrize("shape", [(40, 30), (1201, 1003), (1040, 1040), (1031, 1024)])
def test_turned_mirrored_and_inverted_films_have_one_hash(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 4096, shape).astype(np.uint16)
    values[: shape[0] // 2] = 0
    turned = [np.rot90(values, quarter) for quarter in range(4)]
    found = {film_hash(one, inverted=False) for one in [*turned, *(one[:, ::-1] for one in turned)]}
    found |= {film_hash(4095 - values, inverted=True), film_hash(values << 2, inverted=False)}
    found |= {film_hash((values.astype(np.int32) - 2048).astype(np.int16), inverted=False)}
    assert len(found) == 1
    assert film_hash(4095 - values, inverted=False) not in found
    other = values.copy()
    other[0, 0] += 1
    assert film_hash(other, inverted=False) not in found


# In one folder


@pytest.mark.parametrize("change", [as_it_is, new_uid, mirrored, upside_down, negative])
def test_a_copy_counts_once(tmp_path: Path, change: Change) -> None:
    put(tmp_path / "films", as_it_is, change)
    assert codes(taken(tmp_path / "films")) == ["", "repeated"]
    report = look_through(tmp_path / "films")
    assert (report.usable, report.repeated) == (1, 1)


def test_the_copy_that_counts_has_the_label_of_any(tmp_path: Path) -> None:
    uids = []

    def remembered(film: Any) -> None:
        new_uid(film)
        uids.append(str(film.SOPInstanceUID))

    put(tmp_path / "films", as_it_is, remembered, remembered)
    labels = FilmLabels(by_image={uids[0]: "yes"})
    assert [film.label for film in taken(tmp_path / "films", labels).labelled] == ["yes"]
    assert look_through(tmp_path / "films", labels).classes == {"yes": 1}
    contradicting = taken(tmp_path / "films", FilmLabels(by_image=dict(zip(uids, CLASSES, strict=True))))
    assert codes(contradicting) == ["contradicting"] * 3
    assert contradicting.labelled == ()


def test_nothing_says_whose_film_it_is(tmp_path: Path) -> None:
    put(tmp_path / "films", of_patient("A"), of_patient("B"))
    put(tmp_path / "films", as_it_is, seed=1)
    assert codes(taken(tmp_path / "films")) == ["contradicting", "contradicting", ""]
    report = look_through(tmp_path / "films")
    assert report.usable == 1
    assert {code for code, _reason in report.refused} == {"contradicting"}


def test_films_that_differ_have_different_uids(tmp_path: Path) -> None:
    put(tmp_path / "films", as_it_is, with_pixels_changed, as_it_is)
    assert codes(taken(tmp_path / "films")) == ["contradicting"] * 3
    assert look_through(tmp_path / "films").usable == 0


def test_case_and_spaces_make_no_other_patient(tmp_path: Path) -> None:
    put(tmp_path / "films", of_patient("Ab  c"))
    put(tmp_path / "films", of_patient("AB C"), seed=1)
    put(tmp_path / "films", of_patient("ab-c"), seed=2)
    films = taken(tmp_path / "films", FilmLabels(by_patient={" aB c": "yes"})).files
    assert [film.label for film in films] == ["yes", "yes", None]
    assert len({film.record.patient for film in films}) == 2
    assert len(look_through(tmp_path / "films").films_of) == 2


def test_labels_name_a_film_of_cbis_ddsm_as_its_patient_id_does(tmp_path: Path) -> None:
    put(tmp_path / "films", of_patient("Mass-Test_P_00173_LEFT_CC"))
    put(tmp_path / "films", of_patient("Mass-Test_P_00173_RIGHT_CC"), seed=1)
    labels = FilmLabels(by_patient={"Mass-Test_P_00173_LEFT_CC": "yes", "P_00173": "no"})
    films = taken(tmp_path / "films", labels).files
    assert [film.label for film in films] == ["yes", "no"]
    assert len({film.record.patient for film in films}) == 1
    assert look_through(tmp_path / "films", labels).classes == {"yes": 1, "no": 1}


# In folders of several devices


def hospitals(tmp_path: Path, *changes: Change) -> list[FilmDataset]:
    """Two folders with films of their own, to the second of which these copies are added."""
    data = []
    for number, copies in enumerate(((as_it_is,), changes)):
        put(tmp_path / f"hospital-{number}", of_patient(f"own-{number}"), seed=7 + number)
        put(tmp_path / f"hospital-{number}", *copies)
        patients = {"SYN-0-0000": "yes", "moved": "yes", f"own-{number}": "no"}
        films = taken(tmp_path / f"hospital-{number}", FilmLabels(by_patient=patients))
        data.append(FilmDataset(films, CLASSES, (48, 40)))
    return data


def loaded(device: FilmDataset, held_out: FilmDataset) -> Task:
    return checked(
        Task(
            name="films",
            classes=CLASSES,
            student=lambda: nn.Sequential(nn.Flatten(), nn.Linear(48 * 40, 2)),
            device_data=lambda _device: device,
            held_out=lambda: held_out,
            devices=("one",),
        )
    )


@pytest.mark.parametrize("change", [as_it_is, mirrored, upside_down, negative])
def test_a_copy_in_another_folder_under_another_name_is_found(tmp_path: Path, change: Change) -> None:
    one, other = hospitals(tmp_path, of_patient("moved", change))
    assert set(one.persons).isdisjoint(other.persons), "names differ, and so do the keys of their pseudonyms"
    task = loaded(one, other)
    task.device_data("one")
    with pytest.raises(SplitError, match="1 images among the 2 rows of the held-out data"):
        task.held_out()


def test_films_that_are_not_copies_are_not_found(tmp_path: Path) -> None:
    one, other = hospitals(tmp_path, of_patient("moved", with_pixels_changed))
    task = loaded(one, other)
    task.device_data("one")
    assert len(task.held_out()) == 2  # type: ignore[arg-type] — a data set


def test_sites_compare_films_without_reading_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = hospitals(tmp_path, of_patient("moved", mirrored))
    monkeypatch.setattr(FilmDataset, "__getitem__", None)
    ours, theirs = (
        fingerprints(side_of(data), tensors_of(data), task="films", name="device", key=b"k" * 16, with_names=False)
        for data in (one, other)
    )
    assert in_common(ours, theirs)["images"] == (1, 1)
    assert side_of(one).read == 2
    assert side_of(one).images == Counter(one.image_hashes)
