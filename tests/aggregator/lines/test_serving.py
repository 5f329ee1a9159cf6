"""One aggregator serves the lines of its task: what begins, what moves, what ends."""

import logging
from pathlib import Path

import pytest

from aggregator.ledger.closing import close_line
from aggregator.ledger.reading import read_totals
from aggregator.lines.ledgers import path_of_line
from aggregator.publishing.ownership import LineRefused
from tests.aggregator.lines.lines_stage import NEW, NEWER, NEXT, LinesStage
from tests.aggregator.synthetic import LAYOUT, ROOT, T0, TASK
from wire_contract.link.memory import MemoryLink
from wire_contract.topics import build


def test_a_task_with_one_line_announces_no_other(stage: LinesStage) -> None:
    manifest = stage.manifest()
    assert (manifest.next_line, manifest.closed) == (None, False)


def test_a_running_aggregator_serves_a_line_that_begins(stage: LinesStage) -> None:
    stage.begin_line()
    stage.step()
    assert stage.manifest().next_line == NEXT
    assert stage.manifest(NEXT).layout_fingerprint == NEW.fingerprint
    for name in ("a", "b"):
        stage.send(name)
        stage.send(name, NEXT)
    stage.step()
    assert sorted(stage.outcomes()) == [(TASK, "merged")] * 2 + [(NEXT, "merged")] * 2
    assert (stage.manifest().version, stage.manifest(NEXT).version) == (1, 1)


def test_a_restart_serves_the_same_lines(stage: LinesStage) -> None:
    stage.begin_line()
    stage.step()
    stage.begin_line(NEWER)
    stage.stop()
    stage.broker.retained.clear()
    stage.start()
    stage.step()
    manifests = [stage.manifest(name) for name in (TASK, NEXT, f"{TASK}.3")]
    assert [one.layout_fingerprint for one in manifests] == [one.fingerprint for one in (LAYOUT, NEW, NEWER)]
    assert [one.next_line for one in manifests] == [NEXT, f"{TASK}.3", None]


def test_an_update_goes_to_the_line_of_its_topic_only(stage: LinesStage) -> None:
    stage.begin_line()
    stage.step()
    sent = stage.send("a")
    stage.send("a", NEXT, payload=sent)  # an update of the old line, on the new line's topic
    stage.step()
    assert sorted(stage.outcomes()) == [(TASK, "merged"), (NEXT, "malformed")]


def test_a_closed_line_refuses_what_is_new_and_repeats_what_it_answered(stage: LinesStage) -> None:
    stage.begin_line()
    first, second = stage.send("a"), stage.send("b")
    stage.step()
    assert stage.outcomes() == [(TASK, "merged")] * 2
    close_line(stage.path, now=T0)
    stage.step()
    manifest = stage.manifest()
    assert (manifest.version, manifest.closed, manifest.next_line) == (1, True, NEXT)
    stage.send("a", payload=first)
    stage.send("b", payload=second)
    late = stage.send("c")
    stage.step()
    stage.send("c", payload=late)
    stage.step()
    answers = stage.answers()
    assert [outcome for _, outcome, _ in answers] == ["duplicate", "duplicate", "too_stale", "too_stale"]
    assert answers[2][2].startswith("closed: line toy has ended")
    totals = read_totals(stage.path)
    assert (totals.merged, totals.refused, totals.duplicates) == (2, 1, 3)
    assert totals.closed_at == T0


def test_a_line_stays_closed_after_a_restart(stage: LinesStage) -> None:
    stage.begin_line()
    close_line(stage.path, now=T0)
    stage.step()
    stage.crash()
    stage.start()
    stage.send("a")
    stage.step()
    assert stage.outcomes() == [(TASK, "too_stale")]
    assert stage.manifest().closed


def test_what_is_buffered_becomes_the_last_version(stage: LinesStage) -> None:
    """It was answered `merged`. With fewer than `devices_min` devices it would show one person's update."""
    stage.send("a")
    stage.step(1)
    assert stage.manifest().version == 0
    close_line(stage.path, now=T0)
    stage.step()
    assert (stage.manifest().version, stage.manifest().closed) == (1, True)


def test_another_line_on_the_next_lines_topics_does_not_stop_the_old_line(
    stage: LinesStage, caplog: pytest.LogCaptureFixture
) -> None:
    other = LinesStage(_folder(stage, "other"))  # another program's line of that name
    other.begin_line(NEWER)
    other.step()
    topic = build("model", root=ROOT, task=NEXT)
    MemoryLink(stage.broker, "other").publish(topic, other.broker.retained[topic], retain=True)
    stage.begin_line()
    with caplog.at_level(logging.ERROR):
        stage.step()
    assert f"line {NEXT} is not served" in caplog.text
    assert stage.manifest(NEXT).layout_fingerprint == NEWER.fingerprint, "nothing was changed there"
    stage.send("a")
    stage.step()
    assert stage.outcomes() == [(TASK, "merged")]


def test_another_line_on_the_first_lines_topics_refuses_the_start(stage: LinesStage) -> None:
    stage.send("a")
    stage.send("b")
    stage.step()
    other = LinesStage(_folder(stage, "other"))
    topic = build("model", root=ROOT, task=TASK)
    MemoryLink(other.broker, "other").publish(topic, stage.broker.retained[topic], retain=True)
    with pytest.raises(LineRefused):
        other.step()


def test_a_damaged_ledger_of_the_next_line_does_not_stop_the_old_line(
    stage: LinesStage, caplog: pytest.LogCaptureFixture
) -> None:
    path_of_line(stage.path, 2).write_bytes(b"no database" * 1_000)
    stage.step()
    assert caplog.text.count(f"line {NEXT} is not served") == 1
    stage.send("a")
    stage.step()
    assert stage.outcomes() == [(TASK, "merged")]
    path_of_line(stage.path, 2).unlink()
    stage.begin_line()
    stage.now += 60
    stage.step()
    assert stage.manifest().next_line == NEXT


def test_messages_of_a_line_that_is_not_served_are_left_to_their_devices(stage: LinesStage) -> None:
    """They get no receipt, so devices keep the updates and send them again."""
    stage.begin_line()
    stage.step()
    sent = stage.send("a", NEXT)
    stage.stop()
    path_of_line(stage.path, 2).rename(stage.folder / "away")
    stage.start()
    stage.step()
    assert stage.answers() == []
    (stage.folder / "away").rename(path_of_line(stage.path, 2))
    stage.step()
    stage.send("a", NEXT, payload=sent)
    stage.step()
    assert stage.outcomes() == [(NEXT, "merged")]


def test_the_old_line_keeps_its_devices_while_the_broker_is_away(stage: LinesStage) -> None:
    stage.begin_line()
    stage.step()
    stage.broker.drop("aggregator")
    stage.send("a")
    stage.send("a", NEXT)
    stage.step()
    assert sorted(stage.outcomes()) == [(TASK, "merged"), (NEXT, "merged")]


def _folder(stage: LinesStage, name: str) -> Path:
    folder = stage.folder / name
    folder.mkdir()
    return folder
