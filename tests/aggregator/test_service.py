"""The loop over a broker in memory: judging, order, versions, answers."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aggregator.ledger.reading import read_totals
from aggregator.ledger.records import Batch
from aggregator.metrics_file import WRITE_SECONDS
from aggregator.service import RefusedByBroker
from tests.aggregator.stage import MakeStage, Stage
from tests.aggregator.synthetic import (
    LAYOUT,
    ROOT,
    SETTINGS,
    TASK,
    SyntheticDevice,
    identities,
    initial_weights,
    replay,
)
from wire_contract.codec import encode
from wire_contract.messages import Evaluation
from wire_contract.publication.manifest import assemble_snapshot
from wire_contract.topics import build


def test_the_first_connection_publishes_the_model(stage: Stage) -> None:
    stage.step()
    published = assemble_snapshot(stage.manifest)
    assert published is not None
    assert published.version == 0
    assert published.weights.tobytes() == initial_weights().tobytes()
    assert (stage.status.status, stage.status.version) == ("online", 0)


def test_every_update_gets_its_receipt(stage: Stage) -> None:
    a = SyntheticDevice("a")
    first = stage.send(a)
    stage.send(a, base_digest=bytes(32))
    stage.send(a, b"nonsense")
    stage.send(a, first)
    stage.step()
    answers = stage.receipts()
    assert [(answer.outcome, answer.reason, answer.sequence) for answer in answers] == [
        ("merged", None, 1),
        ("refused", "unknown_base", 2),
        ("refused", "malformed", 0),
        ("duplicate", None, 1),
    ]
    assert (answers[0].weight, answers[0].version) == (1.0, 0)
    stage.step()
    assert not stage.receipts()
    assert not stage.broker._sessions["aggregator"].in_flight, "everything was acknowledged"


def test_a_version_when_k_devices_have_handed_something_in(stage: Stage) -> None:
    for _ in range(3):
        stage.send(stage.device("a"))
    stage.step()
    assert stage.line.version == 0, "one device, however often, is one slot"
    stage.send(stage.device("b"))
    stage.step()
    assert (stage.line.version, stage.manifest.version) == (1, 1)
    stage.now += 2.0
    stage.step()
    assert stage.status.version == 1
    assert stage.status.counters == {"merged": 4, "duplicate": 0, "refused": 0, "devices": 2}


def test_a_version_after_t_seconds_however_few_there_are(make_stage: MakeStage) -> None:
    stage = make_stage(replace(SETTINGS, updates_per_version=100, version_seconds=60.0))
    stage.now += 500
    stage.step()
    stage.send(stage.device("a"))
    stage.step()
    stage.now += 59
    stage.send(stage.device("a"))
    stage.step()
    assert stage.line.version == 0, "counted from the first update, and that one was 59 s ago"
    assert stage.service._receive_seconds() == pytest.approx(0.5)
    stage.now += 0.75
    assert stage.service._receive_seconds() == pytest.approx(0.25)
    stage.now += 0.25
    stage.step()
    assert stage.line.version == 1
    stage.now += 500
    stage.step()
    assert stage.line.version == 1, "an empty buffer makes no version"


def test_no_version_is_made_of_fewer_devices_than_the_operator_wants(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stage = make_stage(replace(SETTINGS, updates_per_version=1, devices_min=3))

    def complaints() -> list[str]:
        return [record.message for record in caplog.records if "waits for" in record.message]

    for _ in range(300):  # more than a batch
        stage.send(stage.device("a"))
    stage.step(3)
    assert stage.line.version == 0
    assert not complaints(), "it is early yet"
    assert "devices_missing" not in stage.status.counters
    for name, missing in (("a", "2 more devices"), ("b", "1 more device:")):
        stage.send(stage.device(name))
        stage.now += 60
        stage.step(2)
        assert stage.line.version == 0
        assert stage.status.counters["devices_missing"] == int(missing[0])
        assert stage.service._receive_seconds() == 0.5, "it waits, it does not spin"
    assert len(complaints()) == 1
    assert "version 1 waits for 2 more devices: 1 contributed, and --devices-min is 3" in complaints()[0]
    stage.crash()
    stage.start()
    stage.step()
    stage.now += 60
    stage.step()
    assert stage.status.counters["devices_missing"] == 1, "after a restart, too"
    stage.send(stage.device("c"))
    stage.now += 5
    stage.step(2)
    assert stage.line.version == 1
    stage.now += 5
    stage.step()
    assert "devices_missing" not in stage.status.counters


def test_a_restored_buffer_becomes_a_version_too(stage: Stage) -> None:
    stage.send(stage.device("a"))
    stage.step()
    expected = stage.line.next_step().weights.tobytes()
    stage.crash()
    stage.start()
    assert stage.line.buffer.updates == 1
    stage.step()
    assert stage.line.version == 0
    stage.now += 60
    stage.step()
    assert (stage.line.version, stage.line.weights.tobytes()) == (1, expected)


def test_a_clock_that_goes_backwards_changes_nothing(stage: Stage) -> None:
    stage.step()
    stage.now -= 500
    stage.teach(2)
    assert stage.line.version == 2
    version, weights = replay(stage.path, LAYOUT, initial_weights())
    assert (version, weights.tobytes()) == (2, stage.line.weights.tobytes())


def test_what_was_not_acknowledged_comes_again_and_is_a_duplicate(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.step()
    with monkeypatch.context() as patch:
        patch.setattr(stage.link, "ack", lambda _: None)
        stage.send(stage.device("a"))
        stage.step()
    stage.crash()
    stage.start()
    stage.step()
    assert stage.outcomes() == ["merged", "duplicate"]
    assert len(identities(stage.path)) == 1
    assert not stage.broker._sessions["aggregator"].in_flight


def test_nothing_is_acknowledged_before_it_is_in_the_ledger(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for owner, name in (
        (stage.ledger, "commit_batch"),
        (stage.link, "ack"),
        (stage.service._publication.publisher, "receipt"),
        (stage.ledger, "commit_version"),
        (stage.service._publication.publisher, "model"),
    ):
        whole = getattr(owner, name)

        def noting(*given: Any, name: str = name, whole: Callable[..., Any] = whole, **named: Any) -> Any:
            order.append(name)
            return whole(*given, **named)

        monkeypatch.setattr(owner, name, noting)
    stage.step()
    order.clear()
    stage.teach(1)
    assert order == ["commit_batch", "ack", "ack", "receipt", "receipt", "commit_version", "model"]


def test_evaluations_of_versions_published_here_are_kept(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.teach(1)

    def say(device: str, **changes: object) -> None:
        fields: dict[str, object] = {
            "task": TASK,
            "device": device,
            "version": 1,
            "digest": stage.line.release.published.digest,
        }
        fields |= {"samples": 5, "metrics": {"accuracy": 0.5}, **changes}
        topic = build("evaluation", root=ROOT, task=TASK, device="evaluator")
        stage.mailbox.publish(topic, encode(Evaluation(**fields)))  # type: ignore[arg-type]

    say("evaluator")
    say("somebody")
    say("evaluator", task="other")
    say("evaluator", version=2**50)
    say("evaluator", digest=bytes(32))
    say("evaluator", metrics={"accuracy": 0.75})
    stage.mailbox.publish(build("evaluation", root=ROOT, task=TASK, device="evaluator"), b"nonsense")
    stage.step()
    assert len([record for record in caplog.records if "ignored an evaluation" in record.message]) == 5
    totals = read_totals(stage.path)
    assert (totals.evaluated_version, totals.evaluation) == (1, {"accuracy": 0.75})
    assert not stage.broker._sessions["aggregator"].in_flight


def test_prometheus_is_told_how_the_line_stands(stage: Stage) -> None:
    stage.teach(1)
    stage.now += WRITE_SECONDS
    stage.step()
    told = stage.path.with_suffix(".prom").read_text()
    labels = f'{{task="{TASK}",shard="0"}}'
    assert f"fedkd_model_version{labels} 1\n" in told
    assert f"fedkd_broker_connected{labels} 1\n" in told
    assert f'fedkd_updates_total{{task="{TASK}",shard="0",outcome="merged"}} 2\n' in told


def test_evaluations_come_from_evaluators_only(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.teach(1)
    for device in ("watch", "watch", "evaluatorx", "Evaluator", "evaluator-1", "evaluator.ward-3"):
        evaluation = Evaluation(
            task=TASK,
            device=device,
            version=1,
            digest=stage.line.release.published.digest,
            samples=5,
            metrics={"accuracy": 1.0 if "-" in device else 0.0},
        )
        stage.mailbox.publish(build("evaluation", root=ROOT, task=TASK, device=device), encode(evaluation))
    stage.step()
    told = [record.message for record in caplog.records if "ignored evaluations" in record.message]
    assert len(told) == 3, "once for each name"
    assert "watch" in told[0]
    assert read_totals(stage.path).evaluation == {"accuracy": 1.0}


def test_a_broker_that_refuses_at_first_ends_it_later_it_is_waited_for(
    stage: Stage, make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    refused = make_stage()
    refused.link.receive(count=9, timeout_seconds=0)  # the connection of the stage itself
    refused.broker.refuse("aggregator")
    with pytest.raises(RefusedByBroker, match="check user name and password"):
        refused.step()
    stage.step()
    stage.broker.refuse("aggregator")
    stage.step(5)
    assert len([record for record in caplog.records if "no connection" in record.message]) <= 2
    stage.broker.accept("aggregator")
    stage.teach(1)
    assert stage.line.version == 1


def test_a_large_batch_is_one_transaction(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.step()
    devices = [SyntheticDevice(f"device-{number}") for number in range(200)]
    for device in devices:
        stage.send(device)
    transactions: list[int] = []
    whole = stage.ledger.commit_batch

    def counting(batch: Batch, *, now: float) -> None:
        transactions.append(len(batch.merged))
        whole(batch, now=now)

    monkeypatch.setattr(stage.ledger, "commit_batch", counting)
    stage.step()
    assert transactions == [200]
    assert stage.outcomes() == ["merged"] * 200
    assert replay(stage.path, LAYOUT, initial_weights())[1].tobytes() == stage.line.weights.tobytes()


def test_names_at_the_limit(stage: Stage) -> None:
    device = SyntheticDevice("d" * 64)
    stage.send(device)
    stage.step()
    assert stage.outcomes() == ["merged"]


def test_a_retained_update_is_answered_like_any(stage: Stage) -> None:
    device = stage.device("a")
    stage.mailbox.publish(device.topic, device.payload(stage.line), retain=True)
    stage.step()
    stage.crash()
    stage.start()
    stage.step()
    stage.broker.drop("aggregator")
    stage.step(2)
    assert stage.outcomes()[0] == "merged"
    assert set(stage.outcomes()) <= {"duplicate"}
    assert len(identities(stage.path)) == 1


def test_goodbye_is_said_on_the_status_topic(stage: Stage) -> None:
    stage.teach(1)
    stage.service.farewell()
    assert (stage.status.status, stage.status.version) == ("offline", 1)
