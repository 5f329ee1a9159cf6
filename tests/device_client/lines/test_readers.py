"""Exports of lines, the old student as teacher, and what a device does not follow."""

from pathlib import Path

import msgspec
import pytest

from aggregator.ledger.closing import close_line
from device_client.downlink.line_check import OwnLine
from device_client.downlink.lines import ended, fits_student, follower
from device_client.model_files import read_model
from tests.aggregator.synthetic import T0
from tests.device_client.lines.fleet import NEW, OLD, Fleet
from tests.device_client.stage import model
from wire_contract.line_description import describe
from wire_contract.messages import Manifest
from wire_contract.program.command_settings import UsageError

OWN = OwnLine(task="walking", description=describe(("no", "yes"), {}))


def manifest(**changes: object) -> Manifest:
    return msgspec.structs.replace(model(3, layout=OLD).manifest, **changes)


@pytest.mark.parametrize(
    ("changes", "leads_to"),
    [
        ({}, None),
        ({"next_line": "walking.2"}, None),
        ({"next_line": "walking.2", "closed": True}, "walking.2"),
        ({"next_line": "walking.2", "layout_fingerprint": NEW.fingerprint}, "walking.2"),
        ({"next_line": "walking.2", "line": describe(("yes", "no"), {})}, "walking.2"),
        ({"closed": True}, None),
        ({"next_line": "walking", "closed": True}, None),
        ({"next_line": "running.2", "closed": True}, None),
        ({"next_line": "walking.1", "closed": True}, None),
        ({"task": "walking.3", "next_line": "walking.2", "closed": True}, None),
    ],
)
def test_a_manifest_leads_only_to_a_later_line_of_the_task(changes: dict[str, object], leads_to: str | None) -> None:
    follow = follower(task="walking", fits=fits_student(OLD, OWN))
    assert follow(manifest(**changes)) == leads_to


def test_a_reader_of_models_stays_on_a_line_that_has_ended() -> None:
    follow = follower(task="walking", fits=fits_student(OLD, OWN), leaves_ended=False)
    assert follow(manifest(next_line="walking.2", closed=True)) is None
    assert ended(manifest(next_line="walking.2", closed=True)) == (
        "line walking has ended, and no line is known that follows it",
    )
    assert ended(manifest()) == ()


def test_export_writes_the_model_of_its_students_line(fleet: Fleet, tmp_path: Path) -> None:
    fleet.begin_line()
    for which, layout in (("old", OLD), ("new", NEW)):
        file = read_model(fleet.export(which, tmp_path / which))
        assert (file.task, file.layout) == ("toy", layout)
    close_line(fleet.stage.path, now=T0)
    fleet.stage.step()
    assert read_model(fleet.export("old", tmp_path / "ended")).layout == OLD


def test_export_prefers_the_newest_line_of_its_student(fleet: Fleet, tmp_path: Path) -> None:
    fleet.begin_line()
    close_line(fleet.stage.path, now=T0)
    fleet.begin_line(OLD)
    fleet.device("old", lambda: len(fleet.merged(3)) >= 1)
    fleet.stage.step()
    assert read_model(fleet.export("old", tmp_path / "out")).version == 1, "of the third line; the first ended at 0"


def test_the_old_student_teaches_the_new_one_if_the_operator_says_so(fleet: Fleet, tmp_path: Path) -> None:
    teacher = fleet.export("old", tmp_path / "before")
    fleet.begin_line()
    with pytest.raises(UsageError, match=r"holds a published model, not a teacher; .* add --teacher-is-published"):
        fleet.device("taught", lambda: True, teacher=teacher)
    events = fleet.device("taught", lambda: len(fleet.merged(2)) >= 1, teacher=teacher, teacher_is_published=True)
    assert [event["line"] for event in events if event["event"] == "moved"] == ["toy.2"]


def test_a_device_that_pins_keys_follows_signed_manifests_only(fleet: Fleet, tmp_path: Path) -> None:
    """An unsigned manifest cannot end its line for it, nor lead it away."""
    key = fleet.sign_models(tmp_path / "models.key")
    fleet.begin_line()
    events = fleet.device("old", lambda: len(fleet.merged()) >= 1, model_key=(key,))
    assert not [event for event in events if event["event"] == "moved"]
    events = fleet.device("new", lambda: len(fleet.merged(2)) >= 1, name="b", model_key=(key,))
    assert [event["line"] for event in events if event["event"] == "moved"] == ["toy.2"]
    fleet.is_aggregator_up = False
    fleet.forge(closed=True)
    turns = 0

    def some_turns() -> bool:
        nonlocal turns
        turns += 1
        return turns > 20

    events = fleet.device("old", some_turns, model_key=(key,))
    assert not [event for event in events if event["event"] == "moved"]
    assert any("manifest was refused" in event.get("message", "") for event in events)
