"""Devices go on to the line of their student, and no update is lost or merged twice on the way."""

import pytest

from aggregator.ledger.closing import close_line
from tests.aggregator.synthetic import T0
from tests.device_client.lines.fleet import NEW, OLD, Fleet, Kill
from wire_contract.codec import decode
from wire_contract.messages import Presence
from wire_contract.topics import DEFAULT_ROOT, build

WAITING = 3


def work(fleet: Fleet, which: str, *, line: int, updates: int, name: str = "a") -> list[dict]:
    """Runs a device until so many more updates are merged in this line."""
    before = len(fleet.merged(line))
    return fleet.device(which, lambda: len(fleet.merged(line)) >= before + updates, name=name)


def let_wait(fleet: Fleet) -> list[tuple[str, bytes, int]]:
    """Updates of the old student that wait in the outbox; returns their identities."""
    work(fleet, "old", line=1, updates=1)
    fleet.is_aggregator_up = False
    queued = 0

    def count() -> bool:
        nonlocal queued
        queued += 1
        return queued > 200

    fleet.device("old", count, local_rounds_max=WAITING)
    fleet.is_aggregator_up = True
    waiting = fleet.waiting()
    assert len(waiting) >= WAITING
    return waiting


def presence(fleet: Fleet, line: str) -> str:
    payload = fleet.stage.broker.retained[build("presence", root=DEFAULT_ROOT, task=line, device="a")]
    return decode(payload, Presence).status


def test_a_device_with_the_new_student_goes_on_and_one_with_the_old_stays(fleet: Fleet) -> None:
    work(fleet, "old", line=1, updates=2)
    fleet.begin_line()
    stays = work(fleet, "old", line=1, updates=2)
    assert not [event for event in stays if event["event"] == "moved"]
    goes = work(fleet, "new", line=2, updates=2, name="b")
    assert [event["line"] for event in goes if event["event"] == "moved"] == ["toy.2"]
    assert not [event for event in goes if event["event"] == "warning"]
    assert {device for device, _, _ in fleet.merged(2)} == {"b"}


def test_a_restart_begins_on_the_line_where_the_device_was(fleet: Fleet) -> None:
    fleet.begin_line()
    work(fleet, "new", line=2, updates=1)
    fleet.stage.broker.retained.pop(build("model", root=DEFAULT_ROOT, task="toy"))
    events = work(fleet, "new", line=2, updates=1)
    assert not [event for event in events if event["event"] == "moved"]


def test_what_waits_for_the_old_line_is_merged_there_once(fleet: Fleet) -> None:
    waiting = let_wait(fleet)
    fleet.begin_line()
    work(fleet, "new", line=2, updates=8)
    merged = fleet.merged()
    assert merged[1:] == waiting
    assert fleet.waiting() == []
    assert {incarnation for _, incarnation, _ in fleet.merged(2)} != {incarnation for _, incarnation, _ in merged}
    assert presence(fleet, "toy") == presence(fleet, "toy.2") == "offline"


def test_what_comes_after_the_end_of_the_old_line_is_refused_with_a_reason(fleet: Fleet) -> None:
    waiting = let_wait(fleet)
    fleet.begin_line()
    in_time = fleet.merged()[1:]  # the first was with the broker already
    close_line(fleet.stage.path, now=T0)
    events = work(fleet, "new", line=2, updates=8)
    refused = [event for event in events if event["event"] == "receipt" and event["outcome"] == "refused"]
    late = waiting[len(in_time) :]
    assert late
    assert [(event["sequence"], event["reason"]) for event in refused] == [(one[2], "too_stale") for one in late]
    assert fleet.merged()[1:] == in_time == waiting[: len(in_time)]
    assert any("closed: line toy has ended" in event["message"] for event in events if event["event"] == "warning")
    assert fleet.waiting() == []


@pytest.mark.parametrize("turn", [*range(1, 16), 20, 30, 40])
def test_killed_at_any_moment_of_the_move_nothing_is_lost_or_merged_twice(fleet: Fleet, turn: int) -> None:
    waiting = let_wait(fleet)
    fleet.begin_line()
    turns = 0

    def kill() -> bool:
        nonlocal turns
        turns += 1
        if turns == turn:
            raise Kill
        return False

    with pytest.raises(Kill):
        fleet.device("new", kill)
    work(fleet, "new", line=2, updates=8)
    assert fleet.merged()[1:] == waiting
    assert fleet.waiting() == []
    for line in (1, 2):
        assert len(set(fleet.merged(line))) == len(fleet.merged(line))


def test_the_aggregator_may_be_killed_during_the_move(fleet: Fleet) -> None:
    waiting = let_wait(fleet)
    fleet.begin_line()
    turns = 0

    def crash_now_and_then() -> bool:
        nonlocal turns
        turns += 1
        if turns in {3, 6, 12}:
            fleet.stage.crash()
            fleet.stage.start()
        return len(fleet.merged(2)) >= 8

    fleet.device("new", crash_now_and_then)
    assert fleet.merged()[1:] == waiting
    assert len(set(fleet.merged(2))) == len(fleet.merged(2))


def test_a_device_of_a_line_that_has_ended_waits_and_does_not_train_for_it(fleet: Fleet) -> None:
    work(fleet, "old", line=1, updates=1)
    fleet.begin_line()
    close_line(fleet.stage.path, now=T0)
    turns = 0

    def some_turns() -> bool:
        nonlocal turns
        turns += 1
        return turns > 50

    events = fleet.device("old", some_turns)
    assert [event["line"] for event in events if event["event"] == "moved"] == ["toy.2"]
    assert any("is of an earlier or later student" in event.get("message", "") for event in events)
    fleet.is_aggregator_up = False
    fleet.stage.broker.stop()
    turns = 0
    events = fleet.device("old", some_turns)
    assert not [event for event in events if event["event"] == "training"], "nor after a restart without a broker"
    assert any("line toy has ended" in str(event.get("reasons")) for event in events)


def test_a_later_line_with_the_old_student_takes_its_devices_again(fleet: Fleet) -> None:
    work(fleet, "old", line=1, updates=1)
    fleet.begin_line()
    close_line(fleet.stage.path, now=T0)
    fleet.begin_line(OLD)
    events = work(fleet, "old", line=3, updates=2)
    assert [event["line"] for event in events if event["event"] == "moved"] == ["toy.2", "toy.3"]
    assert fleet.merged(2) == []


def test_a_device_that_goes_back_to_the_old_student_works_on_the_old_line(fleet: Fleet) -> None:
    work(fleet, "old", line=1, updates=1)
    fleet.begin_line()
    work(fleet, "new", line=2, updates=1)
    events = work(fleet, "old", line=1, updates=1)
    assert not [event for event in events if event["event"] == "moved"]
    assert {incarnation for _, incarnation, _ in fleet.merged()} == {fleet.merged()[0][1]}, "the same outbox"


def test_the_evaluator_measures_the_line_of_its_student(fleet: Fleet) -> None:
    fleet.begin_line()
    for which, lines in (("old", []), ("new", ["toy.2"])):
        events = fleet.evaluator(which)
        assert [event["line"] for event in events if event["event"] == "moved"] == lines
        assert [event["version"] for event in events if event["event"] == "evaluated"] == [0]
    assert NEW != OLD
