"""A folder becomes films in a cache, or reasons in a manifest; whatever ends it, the next run goes on from there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device_client.data.dicom.film import FilmSettings
from device_client.data.dicom.folder import intake
from device_client.data.dicom.folder.intake import MANIFEST, take_in
from device_client.data.dicom.folder.labels import FilmLabels, read_labels
from device_client.data.faults import DataError
from simulators.films.folder import LABELS, Plan, make_films
from tests.device_client.data.extras import extra

extra("pydicom")
SETTINGS = FilmSettings(spacing_mm=3.0, crop=True)
SMALL = Plan(patients=2, films=2, rows=200, syntaxes=("explicit",))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, not taken from the cache."""
    names: list[str] = []
    real = intake.read_film

    def reading(path: Path, settings: FilmSettings) -> object:
        names.append(path.name)
        return real(path, settings)

    monkeypatch.setattr(intake, "read_film", reading)
    return names


def manifest(cache: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (cache / MANIFEST).read_text().splitlines()]


def test_each_file_is_a_film_or_has_its_reason(tmp_path: Path) -> None:
    make_films(tmp_path / "films", Plan(patients=2, rows=200, faults=True))
    taken = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS, labels=read_labels(tmp_path / "films" / LABELS))
    lines = manifest(tmp_path / "cache")
    assert len(lines) == len(taken.files) == 8 + 10 + 1
    assert [line["number"] for line in lines] == list(range(1, 20))
    codes = sorted(str(line["code"]) for line in lines if not line["used"])
    assert codes == [
        "colour",
        "length",
        "missing_tag",
        "missing_tag",
        "modality",
        "multi_frame",
        "not_dicom",
        "not_dicom",
    ]
    assert all(line["reason"] for line in lines if not line["used"])
    assert len(taken.labelled) == 8
    assert {line["label"] for line in lines if line["used"]} == {"normal", None}


def test_a_second_run_reads_nothing(tmp_path: Path, read: list[str]) -> None:
    make_films(tmp_path / "films", SMALL)
    once = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    first = (tmp_path / "cache" / MANIFEST).read_bytes()
    read.clear()
    again = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    assert read == []
    assert again.files == once.files
    assert (tmp_path / "cache" / MANIFEST).read_bytes() == first


def test_a_changed_file_or_setting_is_read_anew(tmp_path: Path, read: list[str]) -> None:
    make_films(tmp_path / "films", SMALL)
    take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    read.clear()
    path = tmp_path / "films" / "film-00001"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"SYN-0", b"SYN-9"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    assert read == ["film-00001"], "of the same size and time of modification"
    read.clear()
    take_in(tmp_path / "films", tmp_path / "cache", FilmSettings(spacing_mm=4.0, crop=True))
    assert len(read) == 5


def test_a_film_that_is_damaged_in_the_cache_is_read_anew(tmp_path: Path, read: list[str]) -> None:
    make_films(tmp_path / "films", SMALL)
    once = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    usable = next(film for film in once.files if film.usable)
    pixels = once.cache.pixels(usable.name)
    kept = tmp_path / "cache" / f"{usable.name}.film"
    whole = kept.read_bytes()
    for damage in (b"", whole[:-1], b"\xff" + whole, b"[]\n", whole.replace(b'"height"', b'"weight"')):
        read.clear()
        kept.write_bytes(damage)
        again = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
        assert len(read) == 1
        assert np.array_equal(again.cache.pixels(usable.name), pixels)
    kept.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="damaged there"):
        once.cache.pixels(usable.name)
    kept.write_bytes(whole[:-9] + b"\7" * 9)
    assert take_in(tmp_path / "films", tmp_path / "cache", SETTINGS).files == once.files, "its length is right"
    with pytest.raises(DataError, match="take the folder in again"):
        once.cache.pixels(usable.name)
    again = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    assert np.array_equal(again.cache.pixels(usable.name), pixels)


def test_a_film_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    make_films(tmp_path / "films", SMALL)
    (tmp_path / "films" / "copy").write_bytes((tmp_path / "films" / "film-00000").read_bytes())
    taken = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    assert sum(film.usable for film in taken.files) == 4
    assert [film.record.code for film in taken.files].count("repeated") == 1


def test_what_may_have_another_cause_than_the_file_is_tried_again(tmp_path: Path, read: list[str]) -> None:
    make_films(tmp_path / "films", Plan(patients=1, films=2, rows=200, syntaxes=("jpeg-ls",)))
    path = tmp_path / "films" / "film-00000"
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.99"))
    for _ in range(2):
        read.clear()
        taken = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    assert read == ["film-00000"], "a decoder may have been installed; labels.csv stays what it is"
    assert taken.files[0].record.code == "transfer_syntax"


def test_the_cache_keeps_to_its_bound(tmp_path: Path) -> None:
    make_films(tmp_path / "films", SMALL)
    take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    used = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.film"))
    finer = FilmSettings(spacing_mm=2.9, crop=True)
    take_in(tmp_path / "films", tmp_path / "cache", finer, bytes_max=int(used * 1.3))
    left = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.film"))
    assert left <= used * 1.3, "films of the other settings made room"
    with pytest.raises(DataError, match="coarser"):
        take_in(tmp_path / "films", tmp_path / "other", SETTINGS, bytes_max=used // 2)


def test_other_files_in_the_cache_folder_are_left_alone(tmp_path: Path) -> None:
    make_films(tmp_path / "films", SMALL)
    take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    used = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.film"))
    own = tmp_path / "cache" / "holiday.film"
    own.write_bytes(b"x" * used)
    finer = FilmSettings(spacing_mm=2.9, crop=True)
    take_in(tmp_path / "films", tmp_path / "cache", finer, bytes_max=int(used * 1.3))
    assert own.stat().st_size == used


def test_a_film_that_is_replaced_counts_once_in_the_bound(tmp_path: Path) -> None:
    make_films(tmp_path / "films", SMALL)
    once = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    used = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.film"))
    for film in once.files:
        path = tmp_path / "cache" / f"{film.name}.film"
        path.write_bytes(b"[" + path.read_bytes()[1:])
    again = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS, bytes_max=used)
    assert again.files == once.files


@pytest.mark.parametrize("place", [".", "cache", "deep/cache"])
def test_the_cache_is_no_part_of_the_films(tmp_path: Path, place: str) -> None:
    make_films(tmp_path, SMALL)
    with pytest.raises(DataError, match="beside that folder"):
        take_in(tmp_path, tmp_path / place, SETTINGS)
    assert len(list(tmp_path.iterdir())) == 5


def test_only_the_owner_reads_the_cache(tmp_path: Path) -> None:
    make_films(tmp_path / "films", SMALL)
    take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "cache").iterdir()} == {0o600}


def test_ctrl_c_keeps_what_is_done(tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_films(tmp_path / "films", SMALL)
    counting = intake.read_film

    def interrupted(path: Path, settings: FilmSettings) -> object:
        if len(read) == 2:
            raise KeyboardInterrupt
        return counting(path, settings)

    with monkeypatch.context() as patch:
        patch.setattr(intake, "read_film", interrupted)
        with pytest.raises(KeyboardInterrupt):
            take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    read.clear()
    take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    assert read == ["film-00002", "film-00003", LABELS]


KILLED = """
import os, sys
from pathlib import Path
from device_client.data.dicom.film import FilmSettings
from device_client.data.dicom.folder.intake import take_in
films, root = Path(sys.argv[1]), Path(sys.argv[2])
steps = 0
def dying(real, at):
    def step(*arguments, **named):
        global steps
        steps += 1
        if steps == at:
            os._exit(9)
        result = real(*arguments, **named)
        steps += 1
        if steps == at:
            os._exit(9)
        return result
    return step
for at in range(1, 100):
    child = os.fork()
    if child == 0:
        os.fsync = dying(os.fsync, at)
        Path.replace = dying(Path.replace, at)
        take_in(films, root / str(at), FilmSettings(spacing_mm=3.0, crop=True))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
print(at)
"""
"""Dies before and after each flush and each rename, in a new cache each time."""


def test_killed_between_any_two_steps_the_next_run_completes_it(tmp_path: Path) -> None:
    make_films(tmp_path / "films", Plan(patients=1, films=2, rows=200, syntaxes=("explicit",)))
    wanted = take_in(tmp_path / "films", tmp_path / "wanted", SETTINGS)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "films"), str(tmp_path / "killed")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[5],
    )
    steps = int(ended.stdout)
    assert steps == 4 * (1 + 3 + 1) + 1, "key, three files, manifest; two steps each, before and after"
    for at in range(1, steps):
        cache = tmp_path / "killed" / str(at)
        taken = take_in(tmp_path / "films", cache, SETTINGS)
        for film, other in zip(taken.files, wanted.files, strict=True):
            assert (film.record.code, film.record.height) == (other.record.code, other.record.height)
            if film.usable:
                assert np.array_equal(taken.cache.pixels(film.name), wanted.cache.pixels(other.name))
        assert len(manifest(cache)) == 3
        assert not list(cache.glob("*.unfinished"))
        assert not list(cache.glob(".*.unfinished"))


def test_one_program_at_a_time(tmp_path: Path) -> None:
    make_films(tmp_path / "films", SMALL)
    taken = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    taken.cache.lock()
    with pytest.raises(DataError, match="another program"):
        take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)
    taken.cache.release()
    take_in(tmp_path / "films", tmp_path / "cache", SETTINGS)


def test_labels_by_patient_by_film_and_by_tag(tmp_path: Path) -> None:
    make_films(tmp_path / "films", SMALL)
    labels = FilmLabels(by_patient={"SYN-0-0000": "no", "SYN-0-0001": "yes"})
    taken = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS, labels=labels)
    assert [film.label for film in taken.files] == ["no", "no", "yes", "yes", None]
    by_tag = take_in(tmp_path / "films", tmp_path / "cache", SETTINGS, label_tag="PatientSex", classes=("F", "M"))
    assert [film.label for film in by_tag.files] == ["F"] * 4 + [None]
    with pytest.raises(DataError, match="not both"):
        take_in(tmp_path / "films", tmp_path / "cache", SETTINGS, labels=labels, label_tag="PatientSex")
    with pytest.raises(DataError, match="classes"):
        take_in(tmp_path / "films", tmp_path / "cache", SETTINGS, label_tag="PatientSex")
