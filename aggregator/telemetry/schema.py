"""Every measurement, in one table: its tags, and its fields with type, unit and meaning.

Points, their line protocol, docs/telemetry.md and the dashboards are made from this table or checked against it.

Tags have few values, all known beforehand, because each combination of them is a series that InfluxDB keeps in memory.
What has many values (device ids, versions) is a field. So the number of series does not depend on the number of
devices. No tag and field of one measurement share a name (InfluxDB 3 forbids it), and a field never changes its type.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from wire_contract.messages import Outcome, RefusalReason

FieldType = Literal["integer", "float", "string", "boolean"]
Unit = Literal[
    "",
    "bytes",
    "seconds",
    "versions",
    "devices",
    "updates",
    "messages",
    "points",
    "percent",
    "share",
    "nats",
]

COHORTS_MAX = 16
"""So many cohorts have series of their own; further ones are called OTHER_COHORT."""
ALL_COHORT = "all"
"""Of an evaluator whose name states none."""
OTHER_COHORT = "other"
NO_REASON = "none"
"""Tag `reason` of what was not refused: every point of a measurement has the same tags."""


@dataclass(frozen=True)
class Tag:
    """One dimension of a measurement's series."""

    name: str
    meaning: str
    values: tuple[str, ...] = ()
    """All there are; empty: a name that the operator chose, the same for the life of the process."""
    values_max: int = 1
    """Distinct values that one aggregator writes."""


@dataclass(frozen=True)
class Field:
    """One value of a measurement's points. A point may leave out fields that nobody measured, but not all of them."""

    name: str
    type: FieldType
    unit: Unit
    meaning: str


@dataclass(frozen=True)
class Measurement:
    """What is known at one kind of moment."""

    name: str
    meaning: str
    when: str
    """One point for each …"""
    tags: tuple[Tag, ...]
    fields: tuple[Field, ...]
    family: Field | None = None
    """Further fields whose names begin with this one's; each has its type, unit and meaning."""


def _closed(name: str, meaning: str, values: tuple[str, ...]) -> Tag:
    return Tag(name, meaning, values, len(values))


TASK = Tag("task", "what is learned")
SHARD = Tag("shard", "which aggregator of the task, 0 unless there are several")
OUTCOME = _closed("outcome", "what became of the update", get_args(Outcome))
REASON = _closed("reason", "why it was refused; `none` where it was not", (NO_REASON, *get_args(RefusalReason)))
COHORT = Tag(
    "cohort",
    f"whom the evaluator measures: what follows the last dot of its device id, `{ALL_COHORT}` without a dot; "
    f"beyond {COHORTS_MAX} of them `{OTHER_COHORT}`",
    values_max=COHORTS_MAX + 2,
)
STATUS = _closed("status", "what the device, or the broker in its place, says", ("online", "offline"))
FORM = _closed("form", "how the version was published", ("delta", "snapshot"))

UPDATE_METRICS = ("loss", "accuracy", "teacher_loss", "teacher_accuracy", "battery_percent")
"""Metrics of an update that are written; they have the names that devices give them."""
EVALUATION_METRICS = ("accuracy", "macro_f1", "loss")
RECALL_PREFIX = "recall_"
RECALL_CLASSES_MAX = 64
"""So many classes get a field; field names are kept by the server for ever, and evaluators choose these."""
EVALUATOR = "evaluator"
"""Role of one that never uploads, as its presence says."""
BATTERY = "battery_percent"
"""Also the name in a presence's capabilities."""

MEASUREMENTS: Mapping[str, Measurement] = {
    one.name: one
    for one in (
        Measurement(
            "fedkd_update",
            "What became of an update, and what its device said of it; or of several, see `updates`.",
            "update of a batch that is in the ledger, and under load one for what is left of the batch",
            (TASK, SHARD, OUTCOME, REASON),
            (
                Field("updates", "integer", "updates", "that the point stands for; 1: one that is told by itself"),
                Field("device", "string", "", "id of the device; where `updates` is 1"),
                Field("version", "integer", "versions", "newest version when it was judged"),
                Field("base_version", "integer", "versions", "the version the device started from; as `device`"),
                Field("staleness", "integer", "versions", "version - base_version; of merged updates, sum"),
                Field("staleness_max", "integer", "versions", "the largest of them"),
                Field("weight", "float", "", "with which it was merged, staleness and samples counted in; sum"),
                Field("norm", "float", "", "L2 norm of the decoded difference; of merged updates, sum"),
                Field("norm_max", "float", "", "the largest of them"),
                Field("bytes", "integer", "bytes", "payload as received; sum"),
                Field("samples", "integer", "", "examples that the device trained on; sum"),
                Field("local_steps", "integer", "", "optimiser steps behind it; sum"),
                Field("train_seconds", "float", "seconds", "local training; sum"),
                Field("loss", "float", "nats", "of the student, on the device's own training data"),
                Field("accuracy", "float", "share", "of the student, on the device's own training data"),
                Field("teacher_loss", "float", "nats", "of a local teacher that is trained along (FedKD)"),
                Field("teacher_accuracy", "float", "share", "of a local teacher that is trained along (FedKD)"),
                Field("battery_percent", "float", "percent", "charge, where the device tells it as a metric"),
            ),
        ),
        Measurement(
            "fedkd_batch",
            "One turn of the aggregator: receive, judge, commit, acknowledge, answer.",
            "batch that was committed to the ledger",
            (TASK, SHARD),
            (
                Field("deliveries", "integer", "messages", "in the batch, of any kind"),
                Field("merged", "integer", "updates", "merged"),
                Field("duplicate", "integer", "updates", "that were answered before"),
                Field("refused", "integer", "updates", "refused, each counted once"),
                Field("evaluations", "integer", "messages", "taken from evaluators"),
                Field("bytes", "integer", "bytes", "payloads received"),
                Field("queue_depth", "integer", "messages", "received and waiting for the next batch"),
                Field("judge_seconds", "float", "seconds", "decoding, judging and merging in memory"),
                Field("commit_seconds", "float", "seconds", "the ledger's transaction"),
                Field("answer_seconds", "float", "seconds", "acknowledging, and handing over the receipts"),
            ),
        ),
        Measurement(
            "fedkd_version",
            "A new version of the model.",
            "version that was committed",
            (TASK, SHARD, FORM),
            (
                Field("version", "integer", "versions", "its number"),
                Field("updates", "integer", "updates", "merged into it"),
                Field("devices", "integer", "devices", "whose updates these were"),
                Field("wait_seconds", "float", "seconds", "from the first of these updates to the commit"),
                Field("encode_seconds", "float", "seconds", "computing the weights and what is published of them"),
                Field("commit_seconds", "float", "seconds", "the ledger's transaction"),
                Field("publish_seconds", "float", "seconds", "handing everything to the link; 0 without a connection"),
                Field("delta_bytes", "integer", "bytes", "the delta that leads to it; absent when there is none"),
                Field("snapshot_bytes", "integer", "bytes", "the whole model; absent when it is not published whole"),
                Field("step_norm", "float", "", "L2 norm of the difference to the version before, master weights"),
                Field("weights_norm", "float", "", "L2 norm of its master weights"),
            ),
        ),
        Measurement(
            "fedkd_evaluation",
            "What an evaluator measured of one version on data nobody trains on.",
            "evaluation that was taken",
            (TASK, SHARD, COHORT),
            (
                Field("device", "string", "", "id of the evaluator"),
                Field("version", "integer", "versions", "that was measured"),
                Field("versions_behind", "integer", "versions", "newest version - version, when it was received"),
                Field("samples", "integer", "", "examples measured on"),
                Field("accuracy", "float", "share", "of all examples"),
                Field("macro_f1", "float", "share", "mean over the classes"),
                Field("loss", "float", "nats", "mean over the examples"),
            ),
            Field(RECALL_PREFIX, "float", "share", f"recall of the class named; the first {RECALL_CLASSES_MAX} names"),
        ),
        Measurement(
            "fedkd_presence",
            "A device came or went.",
            "presence message of this shard's devices",
            (TASK, SHARD, STATUS),
            (
                Field("device", "string", "", "id of the device"),
                Field("firmware", "string", "", "name and version of its program"),
                Field("role", "string", "", "`evaluator` for one that never uploads, empty otherwise"),
                Field("retained", "boolean", "", "it was said before, and the broker repeats it"),
                Field("battery_percent", "float", "percent", "charge, where the device tells it as a capability"),
            ),
        ),
        Measurement(
            "fedkd_fleet",
            "Who takes part, and how evenly.",
            "minute",
            (TASK, SHARD),
            (
                Field("devices_known", "integer", "devices", "ever merged, refused or present; without evaluators"),
                Field("devices_online", "integer", "devices", "whose newest presence says online"),
                Field("devices_contributing", "integer", "devices", "with a merged update in the last hour"),
                Field("devices_silent", "integer", "devices", "known, without a merged update in the last hour"),
                Field("silent_share", "float", "share", "devices_silent / devices_known"),
                Field(
                    "weight_gini",
                    "float",
                    "share",
                    "Gini coefficient of the merged weight per known device since the ledger began; 0 is even",
                ),
            ),
        ),
        Measurement(
            "fedkd_aggregator",
            "How the aggregator stands; totals are since the ledger began unless they say otherwise.",
            "10 seconds",
            (TASK, SHARD),
            (
                Field("version", "integer", "versions", "newest"),
                Field("merged_total", "integer", "updates", "merged"),
                Field("duplicate_total", "integer", "updates", "that were answered before"),
                Field("refused_total", "integer", "updates", "refused"),
                Field("devices_total", "integer", "devices", "ever answered"),
                Field("buffer_updates", "integer", "updates", "merged, waiting for the next version"),
                Field("buffer_devices", "integer", "devices", "whose updates these are"),
                Field("queue_depth", "integer", "messages", "received and waiting for the next batch"),
                Field("connected", "boolean", "", "to the broker"),
                Field("received_messages_total", "integer", "messages", "since this process began"),
                Field("received_bytes_total", "integer", "bytes", "payloads, since this process began"),
                Field("sent_messages_total", "integer", "messages", "the broker has, since this process began"),
                Field("sent_bytes_total", "integer", "bytes", "payloads, since this process began"),
                Field("uptime_seconds", "float", "seconds", "since this process began"),
            ),
        ),
        Measurement(
            "fedkd_broker",
            "What the broker says of itself in $SYS (mosquitto's topics; another broker may have none of them).",
            "10 seconds in which it said something",
            (TASK, SHARD),
            (
                Field("dropped_messages_total", "integer", "messages", "thrown away; more than 0 wants attention"),
                Field("store_bytes", "integer", "bytes", "messages that it keeps"),
                Field("store_messages", "integer", "messages", "that it keeps"),
                Field("retained_messages", "integer", "messages", "retained"),
                Field("clients_connected", "integer", "devices", "with a connection, the programs' own included"),
                Field("clients_disconnected", "integer", "devices", "with a session and no connection"),
                Field("clients_total", "integer", "devices", "with a session"),
                Field("subscriptions", "integer", "", "active"),
                Field("received_messages_total", "integer", "messages", "of any MQTT type"),
                Field("sent_messages_total", "integer", "messages", "of any MQTT type"),
                Field("received_bytes_total", "integer", "bytes", "on the wire"),
                Field("sent_bytes_total", "integer", "bytes", "on the wire"),
                Field("heap_bytes", "integer", "bytes", "of its memory"),
                Field("uptime_seconds", "integer", "seconds", "since it was started"),
            ),
        ),
        Measurement(
            "fedkd_telemetry",
            "Telemetry about itself; totals are since the spool began.",
            "10 seconds",
            (TASK, SHARD),
            (
                Field("recorded_total", "integer", "points", "offered by the aggregator"),
                Field(
                    "queue_dropped_total",
                    "integer",
                    "points",
                    "dropped: the queue in memory was full, or there was no value",
                ),
                Field("spool_dropped_total", "integer", "points", "dropped: the spool was full, or cut by a crash"),
                Field("server_dropped_total", "integer", "points", "dropped: the server refuses them"),
                Field("sent_total", "integer", "points", "taken by the server"),
                Field("write_failures_total", "integer", "", "attempts that failed, since this process began"),
                Field("write_seconds", "float", "seconds", "the newest write that the server took"),
                Field("spool_bytes", "integer", "bytes", "on disk"),
                Field("server_up", "boolean", "", "the newest attempt succeeded; absent without a server"),
            ),
        ),
    )
}


def series_max() -> int:
    """Series that one aggregator can write, over all measurements; reasons belong to refusals only."""
    total = 0
    for measurement in MEASUREMENTS.values():
        series = 1
        for tag in measurement.tags:
            series *= tag.values_max
        if REASON in measurement.tags:
            refusals = REASON.values_max - 1
            series = refusals + OUTCOME.values_max - 1
        total += series
    return total


def markdown() -> str:
    """The tables of docs/telemetry.md."""
    return "\n".join(line for measurement in MEASUREMENTS.values() for line in _markdown_of(measurement))


def _markdown_of(measurement: Measurement) -> list[str]:
    lines = [f"### {measurement.name}", "", f"{measurement.meaning} One point for each {measurement.when}.", ""]
    lines += ["| tag | values | meaning |", "| --- | --- | --- |"]
    for tag in measurement.tags:
        values = ", ".join(f"`{value}`" for value in tag.values) or (
            f"at most {tag.values_max}" if tag.values_max > 1 else "one a process"
        )
        lines.append(f"| `{tag.name}` | {values} | {tag.meaning} |")
    lines += ["", "| field | type | unit | meaning |", "| --- | --- | --- | --- |"]
    for field in measurement.fields:
        lines.append(f"| `{field.name}` | {field.type} | {field.unit or '-'} | {field.meaning} |")
    if measurement.family is not None:
        family = measurement.family
        lines.append(f"| `{family.name}…` | {family.type} | {family.unit or '-'} | {family.meaning} |")
    return [*lines, ""]


if __name__ == "__main__":
    print(markdown())
