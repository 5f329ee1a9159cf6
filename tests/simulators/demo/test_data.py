"""The data of a run: films are drawn for task mammography alone, and only without a folder."""

import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from device_client.tasks.mammography.films import LABELS
from simulators.demo.data import data_of
from simulators.demo.plan import HOSPITALS as PROFILES
from simulators.demo.plan import assign_profiles
from simulators.demo.settings import DemoSettings
from simulators.films import trial
from simulators.films.trial import HOSPITALS
from simulators.reporting.nouns import nouns_of
from tests.device_client.data.extras import extra


def settings(**given: object) -> DemoSettings:
    return DemoSettings.model_validate(given)


def test_a_users_own_folder_is_never_drawn_into(tmp_path: Path) -> None:
    for task, data in (("mammography", tmp_path), ("har", tmp_path), ("physiotherapy", None)):
        found = data_of(settings(task=task, data=data), tmp_path / "run")
        assert (found.folder, found.is_synthetic, dict(found.notes)) == (data, False, {})
    assert list(tmp_path.iterdir()) == []


def test_films_are_drawn_for_five_hospitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra("pydicom")
    monkeypatch.setattr(trial.make_trial, "__kwdefaults__", trial.make_trial.__kwdefaults__ | {"rows": 100})
    found = data_of(settings(task="mammography"), tmp_path)
    assert found.is_synthetic
    assert set(found.notes.values()) == {"few films", "another scanner"}
    assert found.folder is not None
    with (found.folder / LABELS).open(newline="", encoding="utf-8") as file:
        roles = Counter((row["site"], row["role"]) for row in csv.DictReader(file))
    for hospital in HOSPITALS:
        assert roles[hospital.name, "device"] == 4 * hospital.patients
        assert roles[hospital.name, "held-out"] == 4 * hospital.tested
    few = next(hospital for hospital in HOSPITALS if hospital.note == "few films")
    assert few.patients < min(other.patients for other in HOSPITALS if other is not few) / 2


def test_hospitals_upload_with_an_approval_which_one_gets_late() -> None:
    names = [hospital.name for hospital in HOSPITALS]
    profiles = assign_profiles(names, hospitals=True, notes={"hospital-3": "few films"})
    assert {profile.gate for profile in profiles.values()} == {"approval"}
    assert profiles["hospital-3"].title.startswith("few films, ")
    late = [profile for profile in profiles.values() if any(outage.begin == 0 for outage in profile.outages)]
    assert [profile.title for profile in late] == ["approved late"]
    outages = sorted((outage for profile in PROFILES for outage in profile.outages), key=lambda each: each.begin)
    assert all(one.end <= other.begin for one, other in pairwise(outages))


def test_a_report_speaks_of_what_the_task_is_about() -> None:
    assert nouns_of("mammography").count(2, "patient") == "two patients"
    assert nouns_of("har").count(1, nouns_of("har").example) == "one window"
    assert nouns_of("own").example == "example"
    assert nouns_of("own").count(40, "person") == "40 persons"
