"""A device's timeline out of its event lines."""

import json
from pathlib import Path

import pytest

from simulators.reporting.device_timeline import DeviceTimeline, EventReader


def test_a_story_out_of_event_lines(tmp_path: Path) -> None:
    lines = [
        {"at": 1.0, "event": "started", "task": "t", "device": "d", "pid": 1},
        {"at": 1.1, "event": "connected", "session_present": False},
        {"at": 1.2, "event": "model", "version": 0, "bytes": 10},
        {"at": 2.0, "event": "training", "base_version": 0, "round": 1},
        {"at": 3.0, "event": "trained", "base_version": 0, "round": 1},
        {"at": 3.1, "event": "queued", "sequence": 1, "base_version": 0, "bytes": 5},
        {"at": 3.2, "event": "held", "what": "upload", "reasons": ["not charging"]},
    ]
    path, timeline = tmp_path / "events", DeviceTimeline(device="d")
    reader = EventReader(path)
    assert list(reader.new()) == []
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "Traceback\n" + '{"at": 4.0, "ev')
    for event in reader.new():
        timeline.take(event)
    assert (timeline.state, timeline.held_reason, timeline.made, timeline.base_version) == (
        "held",
        "not charging",
        1,
        0,
    )
    with path.open("a") as file:
        file.write('ent": "released", "what": "upload"}\n')
        file.write('{"at": 5, "event": "sent", "sequence": 1, "attempt": 1, "bytes": 5}\n')
    for event in reader.new():
        timeline.take(event)
    assert timeline.state == "sending"
    timeline.take({"at": 6, "event": "receipt", "sequence": 1, "outcome": "merged", "staleness": 4, "reason": None})
    assert (timeline.state, timeline.merged, timeline.staleness) == ("waiting", 1, [4])
    assert [(span.kind, span.start, span.stop) for span in timeline.spans] == [("training", 2.0, 3.0)]


def test_a_kill_ends_the_training_and_is_shown_before_all_else() -> None:
    timeline = DeviceTimeline(device="d")
    timeline.take({"at": 1, "event": "training", "base_version": 0, "round": 1})
    timeline.begin_outage("killed", 2.0)
    assert timeline.state == "killed"
    timeline.end_outage("killed", 5.0)
    assert [(span.kind, span.stop) for span in timeline.spans] == [("training", 2.0), ("killed", 5.0)]
    assert timeline.state == "starting"


@pytest.mark.parametrize(
    "end", [{"event": "held", "what": "training", "reasons": ["battery"]}, {"event": "stopped"}], ids=str
)
def test_a_round_that_is_given_up_is_no_training_any_more(end: dict[str, object]) -> None:
    """The battery is low: the device gives up its round, which no event names."""
    timeline = DeviceTimeline(device="d")
    for at, event in enumerate(({"event": "training", "base_version": 4, "round": 1}, end), start=1):
        timeline.take(event | {"at": float(at)})
    assert timeline.state != "training"
    timeline.finish(9.0)
    assert [(span.kind, span.start, span.stop) for span in timeline.spans] == [("training", 1.0, 2.0)]


def test_refused_for_the_rate_is_not_refused_for_ever() -> None:
    timeline = DeviceTimeline(device="d")
    for reason in ("rate", "norm"):
        timeline.take({"at": 1, "event": "receipt", "sequence": 3, "outcome": "refused", "reason": reason})
    assert timeline.refused == {3: "norm"}
