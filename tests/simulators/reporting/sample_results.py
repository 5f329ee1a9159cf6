"""A small results of a run that never was, with all that a real one has."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from aggregator.ledger.reading import JournalEntry
from simulators.audit.exactly_once import Audit, OutboxState, audit_exactly_once
from simulators.audit.observer import MessageTotals, ObservedEvaluation
from simulators.reporting.baselines import BaselineResults
from simulators.reporting.device_timeline import DeviceTimeline, Span
from simulators.reporting.results import DeviceResults, RunResults, TrafficSample, WireResults
from wire_contract.main_metric import MainMetric

STARTED = 1_000.0


def device(name: str, *, merged: int, title: str = "usual") -> DeviceResults:
    return DeviceResults(
        name=name,
        title=title,
        examples=100,
        duty_cycle=0.5,
        timeline=DeviceTimeline(
            device=name,
            made=merged,
            merged=merged,
            staleness=[1] * merged,
            merges=[STARTED + 2.0 * number for number in range(merged)],
            spans=[
                Span(kind="training", start=STARTED, stop=STARTED + 1),
                Span(kind="offline", start=STARTED + 2, stop=STARTED + 4),
                Span(kind="killed", start=STARTED + 5, stop=STARTED + 6),
                Span(kind="held", start=STARTED + 7, stop=None),
            ],
        ),
        bytes_up=21_000 * merged,
        bytes_down=80_000,
        update_bytes=20_000 * merged,
    )


def contribution(name: str, sequence: int, *, staleness: int = 1, weight: float = 70.0) -> JournalEntry:
    return JournalEntry(
        device=name,
        sequence=sequence,
        base_version=0,
        into_version=1,
        staleness=staleness,
        samples=100,
        weight=weight,
        size_bytes=20_000,
        merged_at=STARTED + sequence,
    )


def sample_audit(*, lost: int = 0) -> Audit:
    counts = [
        OutboxState(device="person-03", incarnation="aa", last_sequence=3, waiting={}),
        OutboxState(device="person-<4>", incarnation="bb", last_sequence=2, waiting={}),
    ]
    merged = [("person-03", 1), ("person-03", 2), ("person-03", 3), ("person-<4>", 1)]
    return audit_exactly_once(counts, {"person-<4>": [2]}, merged[: len(merged) - lost])


def by_another_metric(main: MainMetric, measure: Callable[[float], float]) -> RunResults:
    """The results by another main metric: `measure` makes its values out of the accuracies."""
    results = sample_results()

    def metrics(told: Mapping[str, float]) -> dict[str, float]:
        return {"loss": 1.0, main.name: measure(told["accuracy"])}

    baselines = results.baselines
    results.baselines = replace(
        baselines,
        main=main,
        centralised=metrics(baselines.centralised),
        local={name: metrics(told) for name, told in baselines.local.items()},
        teacher=metrics(baselines.teacher),
    )
    results.evaluations = [replace(told, metrics=metrics(told.metrics)) for told in results.evaluations]
    return results


def sample_results(*, lost: int = 0, largest_bytes: int = 32_768) -> RunResults:
    """Two devices, three versions; `lost` updates are missing in the ledger."""
    metrics = {"accuracy": 0.5, "macro_f1": 0.4}
    return RunResults(
        task="physiotherapy",
        seed=7,
        broker="amqtt, embedded",
        held_out_examples=1_002,
        held_out_persons=2,
        devices=[device("person-03", merged=3, title="offline & back"), device("person-<4>", merged=1)],
        started_at=STARTED,
        stopped_at=STARTED + 9,
        versions={0: STARTED - 1, 1: STARTED + 3, 2: STARTED + 6},
        evaluations=[
            ObservedEvaluation(
                version=version, at=STARTED + 3 * version, metrics={"accuracy": value, "macro_f1": value}
            )
            for version, value in enumerate((0.15, 0.7, 0.85))
        ],
        contributions=[
            contribution("person-03", 1, staleness=0, weight=100.0),
            contribution("person-03", 2),
            contribution("person-03", 3),
            contribution("person-<4>", 1, staleness=4, weight=45.0),
        ],
        audit=sample_audit(lost=lost),
        duplicates=1,
        refused=1,
        updates_per_version=2,
        server_rate=0.5,
        baselines=BaselineResults(
            epochs=40,
            centralised={"accuracy": 0.875, "macro_f1": 0.87},
            local={"person-03": metrics, "person-<4>": {"accuracy": 0.7, "macro_f1": 0.6}},
            teacher={"accuracy": 0.75},
            seconds=12.0,
        ),
        wire=WireResults(
            by_kind={"update": MessageTotals(4, 80_000), "chunk": MessageTotals(6, 120_000)},
            largest_bytes=largest_bytes,
            largest_kind="chunk",
            numbers_max=20_151,
            foreign_updates=0,
            teacher_parameters=205_767,
            student_parameters=20_151,
        ),
        traffic=[TrafficSample(STARTED + second, 1_000 * second, 9_000 * second) for second in range(10)],
        teacher_bytes=823_068,
        phases={"teacher": 12.0, "federation": 30.0},
        seconds=60.0,
    )
