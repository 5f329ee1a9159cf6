"""The loop while the disk of the ledger is full: it waits, and nothing is lost."""

import logging

import pytest

from aggregator.admission import INCARNATIONS_KEPT
from aggregator.ledger.file_format import LedgerBusy
from tests.aggregator.stage import MakeStage, Stage
from tests.aggregator.synthetic import (
    CHUNKED,
    SyntheticDevice,
    identities,
    initial_weights,
    newest_weights,
    replay,
)


def test_a_full_disk_is_waited_for_and_nothing_is_lost(make_stage: MakeStage, caplog: pytest.LogCaptureFixture) -> None:
    stage = make_stage(layout=CHUNKED)
    stage.step()
    stage.fill_disk()
    for name in ("a", "b"):
        stage.send(stage.device(name))
    tries = iter(range(5))

    def free_at_last() -> None:
        assert not stage.receipts(), "no receipt before it is in the ledger"
        assert len(stage.broker._sessions["aggregator"].in_flight) == 2, "and no acknowledgement"
        if next(tries) == 4:
            stage.free_disk()

    stage.on_pause = free_at_last
    stage.step()
    assert len(stage.pauses) >= 5
    assert all("disk is full" in trouble for trouble in stage.beats[-5:]), "live, and not ready"
    stage.step()
    assert stage.beats[-1] == ""
    assert stage.outcomes() == ["merged", "merged"]
    assert len(identities(stage.path)) == 2
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "waiting, nothing is lost" in errors[0]
    version, weights = replay(stage.path, CHUNKED, initial_weights(CHUNKED))
    assert (version, weights.tobytes()) == (1, newest_weights(stage.path).tobytes())


def test_it_can_be_stopped_while_the_disk_is_full(make_stage: MakeStage) -> None:
    stage = make_stage(layout=CHUNKED)
    stage.step()
    stage.fill_disk()
    stage.send(stage.device("a"))

    def stop() -> None:
        stage.stopping = True

    stage.on_pause = stop
    stage.step()
    stage.service.farewell()
    assert not stage.receipts()
    assert not identities(stage.path)
    counters = stage.status.counters
    assert (counters["merged"], counters["devices"]) == (0, 1), "only what is committed is counted"
    stage.crash()
    stage.stopping = False
    stage.start()
    stage.step()
    assert stage.outcomes() == ["merged"], "the broker kept it"


def test_a_disk_that_fills_before_a_version(make_stage: MakeStage) -> None:
    stage = make_stage(layout=CHUNKED)
    stage.step()
    stage.send(stage.device("a"))
    stage.step()
    stage.send(stage.device("b"))
    committed = stage.ledger.commit_batch

    def fill_after(*arguments: object, **named: object) -> None:
        committed(*arguments, **named)  # type: ignore[arg-type]
        stage.fill_disk()

    stage.ledger.commit_batch = fill_after  # type: ignore[method-assign]
    stage.on_pause = stage.free_disk
    stage.step()
    assert stage.pauses
    assert stage.line.version == 1
    assert stage.line.weights.tobytes() == replay(stage.path, CHUNKED, initial_weights(CHUNKED))[1].tobytes()


def test_many_incarnations_and_a_full_disk(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for life in range(INCARNATIONS_KEPT):
        stage.send(SyntheticDevice("a", incarnation=b"life-%03d" % life))
    stage.step()
    forget = stage.ledger.forget_incarnations

    def refuse(_: str) -> object:
        raise LedgerBusy("database or disk is full")

    monkeypatch.setattr(stage.ledger, "forget_incarnations", refuse)
    stage.send(SyntheticDevice("a", incarnation=b"life-999"))
    stage.step()
    assert stage.outcomes() == ["merged"] * (INCARNATIONS_KEPT + 1)
    monkeypatch.setattr(stage.ledger, "forget_incarnations", forget)
    stage.step()
    assert len(stage.ledger.last_of_devices()) == INCARNATIONS_KEPT
