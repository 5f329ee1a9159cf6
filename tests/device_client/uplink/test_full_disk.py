"""A full disk is waited for: what waits is sent, what comes is used, and nothing is lost or merged twice."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.commands import outboxes as run_command
from device_client.settings import RunSettings
from device_client.uplink.outbox import Outbox
from device_client.uplink.outbox_errors import OutboxBlocked, OutboxUnwritable
from device_client.uplink.write_retry import DELAY_SECONDS_MAX, WriteRetry
from tests.device_client.stage import DEVICE, TASK, Kill, Stage, Time, fill_disk, free_disk, model
from tests.wire_contract.keys import key
from wire_contract.encoding import decode_vector
from wire_contract.layout import Vector
from wire_contract.message_fields import RefusalReason

HOUSE = Path(__file__).parents[3]


class FullDisk(Outbox):
    """Refuses each commit while it is full, as SQLite does where not even its log can grow."""

    is_full_now = False
    refused = 0

    def _execute(self, statement: str, *values: object) -> Any:
        if self.is_full_now and statement == "COMMIT":
            self.refused += 1
            raise OutboxBlocked(self.path, "database or disk is full")
        return super()._execute(statement, *values)


def full_disk(stage: Stage) -> FullDisk:
    return FullDisk(stage.path, task=TASK, device=DEVICE, entries_max=stage.entries_max)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, retrain_after_seconds=1.0, local_rounds_max=100)
    stage.aggregator.publish(model(0))
    yield stage
    identities = [update.identity for update in stage.aggregator.merged]
    assert len(identities) == len(set(identities)), "merged twice"


def of_writing(stage: Stage, event: str) -> list[dict[str, Any]]:
    return [fields for fields in stage.told(event) if fields["what"] == "writing"]


def held_here(stage: Stage) -> Vector:
    """What a device that does not run has learned and not handed over, (layout.size,)."""
    with stage.outbox() as outbox:
        line = outbox.local_student()
        waiting = [outbox.find(number) for number in range(1, outbox.next_identity.sequence)]
        payloads = [entry.payload for entry in waiting if entry] + [one.payload for one in outbox.unmerged()]
    assert line is not None
    assert line.residual is not None
    return line.residual + sum(decode_vector(stage.update(payload).tensors, stage.layout) for payload in payloads)


def test_what_was_learned_waits_for_the_disk_and_is_told_once(stage: Stage) -> None:
    """With SQLite's own answer."""
    stage.upload_unmet = ("metered",)
    outbox = stage.outbox()

    def fill() -> None:
        if len(stage.told("queued")) == 2:
            fill_disk(outbox)

    stage.at_turn = fill
    stage.run_for(3_600.0, outbox=outbox)
    (held,) = of_writing(stage, "held")
    assert "free some space" in held["reasons"][0]
    assert of_writing(stage, "released") == []
    queued = len(stage.told("queued"))
    assert stage.queued() == list(range(1, queued + 1))

    outbox = stage.outbox()
    fill_disk(outbox)

    def free() -> None:
        if of_writing(stage, "held")[1:]:
            free_disk(outbox)
        if of_writing(stage, "released"):
            stage.upload_unmet = ()

    stage.at_turn = free
    stage.run(lambda: len(stage.aggregator.merged) > queued + 2, outbox=outbox)
    assert of_writing(stage, "released") == [{"what": "writing"}]
    sequences = [update.sequence for update in stage.aggregator.merged]
    assert sequences == list(range(1, len(sequences) + 1))


def test_all_that_waits_is_sent_while_the_disk_is_full(stage: Stage) -> None:
    stage.upload_unmet = ("metered",)
    stage.run(lambda: len(stage.told("queued")) == 30)
    stage.upload_unmet = ()
    outbox = full_disk(stage)
    outbox.is_full_now = True
    unacknowledged: list[int] = []
    stage.at_turn = lambda: unacknowledged.append(len(stage.broker._sessions[DEVICE].in_flight))
    stage.run(lambda: len(stage.aggregator.merged) == 30 and len(stage.told("receipt")) == 30, outbox=outbox)
    assert len(stage.told("sent")) == 30, "each once: its receipt was understood although it could not be written down"
    assert max(unacknowledged) < 20, "a broker sends no more to one who does not acknowledge"
    assert len(stage.queued()) == 30, "the file knows nothing of it yet"

    stage.at_turn = lambda: None
    stage.run(lambda: not stage.queued_now() and stage.aggregator.duplicates == 30)
    assert stage.queued() == []


def test_receipts_are_written_down_as_soon_as_there_is_space(stage: Stage) -> None:
    outbox = full_disk(stage)

    def fill() -> None:
        outbox.is_full_now = bool(stage.told("queued")) and outbox.refused < 5

    stage.at_turn = fill
    stage.run(lambda: len(stage.told("receipt")) == 3, outbox=outbox)
    assert [fields["sequence"] for fields in stage.told("receipt")] == [1, 2, 3]
    assert (stage.aggregator.duplicates, stage.queued()) == (0, [])


def test_a_disk_that_stays_full_is_asked_now_and_then(stage: Stage) -> None:
    outbox = full_disk(stage)
    outbox.is_full_now = True
    stage.run_for(10_800.0, outbox=outbox)
    assert 10_800 / DELAY_SECONDS_MAX < outbox.refused < 2 * 10_800 / DELAY_SECONDS_MAX
    assert len(of_writing(stage, "held")) == 1


def test_a_refusal_is_acknowledged_only_when_it_is_written_down(stage: Stage) -> None:
    """Else a restart would send the update again, be told that it is a duplicate, and lose what it told."""
    stage.aggregator.refusing = "budget"
    stage.settings["local_rounds_max"] = 1
    outbox = full_disk(stage)
    unacknowledged: list[int] = []

    def fill() -> None:
        outbox.is_full_now = bool(stage.told("sent")) and outbox.refused < 4
        if stage.told("receipt"):
            unacknowledged.append(len(stage.broker._sessions[DEVICE].in_flight))

    stage.at_turn = fill
    stage.run(lambda: outbox.refused == 4 and len(outbox.unmerged()) == 1 and unacknowledged[-1] == 0, outbox=outbox)
    assert max(unacknowledged) == 1
    assert len(stage.told("receipt")) == 1


def test_a_new_model_is_used_while_it_cannot_be_cached(stage: Stage) -> None:
    stage.settings["local_rounds_max"] = 1
    stage.training_unmet = ("not charging",)
    outbox = full_disk(stage)

    def fill() -> None:
        if not outbox.refused and stage.told("model"):
            outbox.is_full_now = True
            stage.aggregator.publish(model(1))
        elif outbox.refused > 3:
            outbox.is_full_now = False

    stage.at_turn = fill
    stage.run(lambda: bool(of_writing(stage, "released")), outbox=outbox)
    names = [(name, fields.get("version")) for name, fields in stage.events if name in {"model", "released"}]
    assert names == [("model", 0), ("model", 1), ("released", None)]
    with stage.outbox() as opened:
        cached = opened.model()
    assert cached is not None
    assert cached.version == 1


def test_a_signed_model_is_used_when_it_is_written_down_that_a_key_vouched_for_it(stage: Stage) -> None:
    """Before that, a device could be shown an older one after a restart."""
    stage.aggregator.signing_keys, stage.model_keys = [key(1)], [key(1).public]
    stage.aggregator.publish(model(0))
    outbox = full_disk(stage)
    outbox.is_full_now = True
    used_at_full: list[int] = []
    published = iter(range(1, 30))

    def look() -> None:
        if outbox.is_full_now:
            used_at_full.append(len(stage.told("model")))
            if outbox.refused and (version := next(published, None)):
                stage.aggregator.publish(model(version))
        if outbox.refused > 5:
            outbox.is_full_now = False

    stage.at_turn = look
    stage.run(lambda: bool(stage.told("queued")), outbox=outbox)
    assert set(used_at_full) == {0}
    assert [fields["version"] for fields in stage.told("model")] == [29], "of many that waited only the newest counts"
    with stage.outbox() as opened:
        believed = opened.trusted_version()
    assert believed is not None
    assert believed.version == 29
    assert stage.broker._sessions[DEVICE].in_flight == {}


@pytest.mark.parametrize("reason", [None, "budget"])
def test_a_death_on_a_full_disk_loses_nothing(stage: Stage, reason: RefusalReason | None) -> None:
    stage.aggregator.refusing = reason
    outbox = full_disk(stage)

    def fill() -> None:
        outbox.is_full_now = len(stage.told("queued")) >= 2
        if len(stage.told("receipt")) == 2:
            raise Kill

    stage.at_turn = fill
    with pytest.raises(Kill):
        stage.run(lambda: False, outbox=outbox)
    stage.aggregator.refusing = None
    stage.at_turn = lambda: None
    stage.settings["local_rounds_max"] = 4
    stage.run(lambda: len(stage.told("queued")) == 4 and not stage.queued_now())
    learned = sum(stage.trainer.steps.values())
    told = sum(stage.aggregator.difference(update) for update in stage.aggregator.merged)
    np.testing.assert_allclose(told + held_here(stage), learned, atol=1e-5)


@pytest.mark.parametrize("moment", range(12))
def test_a_disk_that_fills_at_any_moment_is_waited_for(tmp_path: Path, moment: int) -> None:
    """The nth commit of a device's life is refused, and some after it."""
    stage = Stage(tmp_path, retrain_after_seconds=1.0, local_rounds_max=4)
    stage.aggregator.publish(model(0))

    class FillsOnce(Outbox):
        commits = 0

        def _execute(self, statement: str, *values: object) -> Any:
            self.commits += statement == "COMMIT"
            if statement == "COMMIT" and moment <= self.commits < moment + 3 and self.is_open:
                raise OutboxBlocked(self.path, "database or disk is full")
            return super()._execute(statement, *values)

        is_open = False

    outbox = FillsOnce(stage.path, task=TASK, device=DEVICE)
    outbox.is_open = True
    stage.run(lambda: len(stage.aggregator.merged) == 4 and not stage.queued_now(), outbox=outbox)
    assert [update.sequence for update in stage.aggregator.merged] == [1, 2, 3, 4]
    told = sum(stage.aggregator.difference(update) for update in stage.aggregator.merged)
    np.testing.assert_allclose(told + held_here(stage), sum(stage.trainer.steps.values()), atol=1e-5)


def refuse(path: Path = Path("outbox")) -> None:
    raise OutboxBlocked(path, "full")


def test_the_disk_is_asked_again_with_growing_rests() -> None:
    time = Time()
    events: list[tuple[str, object]] = []
    asked: list[float] = []
    disk = WriteRetry(
        monotonic=time.clock.monotonic, emit=lambda event, **fields: events.append((event, fields["what"]))
    )

    def write() -> None:
        asked.append(time.now)
        refuse()

    while time.now < 1_000_300.0:
        assert not disk.try_write("round", write)
        assert disk.is_blocked
        time.now += 0.25
    assert np.diff(asked).tolist() == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert disk.try_write("model", lambda: None), "another kind of write rests for itself"
    assert events == [("held", "writing")]
    time.now += 60.0
    assert disk.try_write("round", lambda: None)
    assert not disk.is_blocked
    assert events == [("held", "writing"), ("released", "writing")]


def test_a_place_where_no_outbox_can_be_is_no_full_disk(tmp_path: Path) -> None:
    (tmp_path / "outbox.sqlite").mkdir()
    with pytest.raises(OutboxUnwritable, match="permissions"):
        Outbox(tmp_path / "outbox.sqlite", task=TASK, device=DEVICE)


def test_on_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """ENOSPC by the kernel: a device that runs, one that starts, and the log."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run(
        [*alone, sys.executable, "-m", "tests.device_client.uplink.device_on_a_small_disk", str(tmp_path)],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["merged at full"] == 6, "what waits is sent, also by a device that is started on a full disk"
    assert found["duplicates"] >= 2, "what could not be written down is sent again after the start"
    assert len(found["held"]) == 2, "once in each life"
    assert "free some space" in found["held"][0][0]
    assert "cannot be written now" in found["opened at full"]
    assert found["merged"] == list(range(1, 9))
    assert found["off by"] < 1e-4
    assert "event lines could not be written" in found["log"]


def test_a_device_that_starts_on_a_full_disk_waits_for_its_outbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time, events = Time(), []
    tries = iter(range(10))

    def wait(seconds: float) -> None:
        time.now += seconds

    def open_it(path: Path, **fields: Any) -> Outbox:
        if next(tries) < 4:
            raise OutboxBlocked(path, "No space left on device")
        return Outbox(path, **fields)

    monkeypatch.setattr(run_command, "SYSTEM_CLOCK", time.clock)
    monkeypatch.setattr(run_command, "Outbox", open_it)
    settings = RunSettings(task="x", broker="mqtt://localhost", device=DEVICE, state=tmp_path / "state")
    opened = run_command.open_outbox(settings, TASK, lambda event, **_: events.append(event), wait=wait)
    opened.close()
    assert events == ["held", "released"]
    assert time.now - Time().now == 1 + 2 + 4 + 8
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
