"""All measurements in one table: tags, and fields with type, unit and meaning.

Points, line protocol, docs/telemetry.md and the dashboards are generated from this table or checked against it.

Tags have few values, known in advance, because InfluxDB keeps a series in memory for each combination. Anything with
many values (device ids, versions) is a field. So the number of series does not depend on the number of devices. No tag
and field of one measurement share a name (InfluxDB 3 forbids it), and a field never changes its type.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from wire_contract.message_fields import Outcome, RefusalReason

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
]

COHORTS_MAX = 16
"""Cohorts with series of their own; all further ones share OTHER_COHORT. Each makes the server keep further series;
chosen, not measured."""
ALL_COHORT = "all"
"""Cohort of an evaluator whose name contains none."""
OTHER_COHORT = "other"
NO_REASON = "none"
"""Value of tag `reason` for updates that were not refused: all points of a measurement have the same tags."""


@dataclass(frozen=True)
class Tag:
    """One dimension of a measurement's series."""

    name: str
    meaning: str
    values: tuple[str, ...] = ()
    """All possible values; empty: a name chosen by the operator, constant for the life of the process."""
    values_max: int = 1
    """Distinct values that one aggregator writes."""


@dataclass(frozen=True)
class Field:
    """One field. A point may omit fields that were not measured, but not all of them."""

    name: str
    type: FieldType
    unit: Unit
    meaning: str


@dataclass(frozen=True)
class Measurement:
    """One kind of point."""

    name: str
    meaning: str
    when: str
    """Completes the sentence "One point for each …"."""
    tags: tuple[Tag, ...]
    fields: tuple[Field, ...]
    families: tuple[Field, ...] = ()
    """Prefixes of further fields; those with the same prefix have the same type, unit and meaning."""


def _closed(name: str, meaning: str, values: tuple[str, ...]) -> Tag:
    return Tag(name, meaning, values, len(values))


TASK = Tag("task", "what is learned")
SHARD = Tag("shard", "which aggregator of the task; 0 if there is only one")
OUTCOME = _closed("outcome", "what became of the update", get_args(Outcome))
REASON = _closed("reason", "why it was refused; `none` if it was not refused", (NO_REASON, *get_args(RefusalReason)))
COHORT = Tag(
    "cohort",
    f"the group that the evaluator measures: the part of its device id after the last dot, `{ALL_COHORT}` if there is "
    f"no dot; `{OTHER_COHORT}` for every cohort beyond {COHORTS_MAX}",
    values_max=COHORTS_MAX + 2,
)
STATUS = _closed("status", "as published by the device, or by the broker as its will", ("online", "offline"))
FORM = _closed("form", "how the version was published", ("delta", "snapshot"))

UPDATE_METRICS = ("loss", "accuracy", "teacher_loss", "teacher_accuracy", "battery_percent")
"""Metrics of an update that are recorded, with the names that devices use."""
EVALUATION_METRICS = ("accuracy", "macro_f1", "loss")
RECALL_PREFIX = "recall_"
RECALL_CLASSES_MAX = 64
"""Classes with a field of their own: evaluators choose the names, and a server keeps field names for ever."""
OTHER_PREFIX = "other_"
OTHER_METRICS_MAX = 32
"""Further metrics with a field of their own, for the same reason. Chosen: more than a task's own metrics; fewer than
the classes of a classifier."""
TEACHER_PREFIX = "teacher_"
EVALUATOR = "evaluator"
"""Role in the presence of a device that never uploads."""
BATTERY = "battery_percent"
"""Also the key in the capabilities of a presence message."""
DISCARDED = "discarded"
"""The same."""

_IS_SHARE = "whether the main metric is a share from 0 to 1, by its name; dashboards show shares in percent"
_TRAINED = (
    "accuracy, or else the only metric besides `loss`, `battery_percent` and those of a teacher; absent if there are "
    "several"
)

MEASUREMENTS: Mapping[str, Measurement] = {
    one.name: one
    for one in (
        Measurement(
            "fedkd_update",
            "The outcome of one update, and what its device reported; or totals of several updates, see `updates`.",
            "update of a batch that is in the ledger; under load, also one for the rest of the batch",
            (TASK, SHARD, OUTCOME, REASON),
            (
                Field("updates", "integer", "updates", "updates in this point; 1: a single update"),
                Field("device", "string", "", "device id; only if `updates` is 1"),
                Field("version", "integer", "versions", "newest version when the update was judged"),
                Field("base_version", "integer", "versions", "version it started from; only if `updates` is 1"),
                Field("staleness", "integer", "versions", "version - base_version; sum over merged updates"),
                Field("staleness_max", "integer", "versions", "largest staleness"),
                Field("weight", "float", "", "weight of the merge, after staleness and samples; sum"),
                Field("norm", "float", "", "L2 norm of the decoded difference; sum over merged updates"),
                Field("norm_max", "float", "", "largest norm"),
                Field("bytes", "integer", "bytes", "payload as received; sum"),
                Field("samples", "integer", "", "examples trained on; sum"),
                Field("local_steps", "integer", "", "optimiser steps; sum"),
                Field("train_seconds", "float", "seconds", "local training time; sum"),
                Field("loss", "float", "", "of the student, on its own training data; of a classifier in nats"),
                Field("accuracy", "float", "share", "of the student, on the device's own training data"),
                Field("teacher_loss", "float", "", "of the local teacher that is trained too (FedKD)"),
                Field("teacher_accuracy", "float", "share", "of the local teacher that is trained too (FedKD)"),
                Field("battery_percent", "float", "percent", "charge, if the device reports it as a metric"),
                Field(
                    "metric", "float", "", f"main metric of the student, on the device's own training data: {_TRAINED}"
                ),
                Field("metric_name", "string", "", "name of the main metric"),
                Field("is_share", "boolean", "", _IS_SHARE),
            ),
        ),
        Measurement(
            "fedkd_batch",
            "One iteration of the aggregator's loop: receive, judge, commit, acknowledge, answer.",
            "batch committed to the ledger",
            (TASK, SHARD),
            (
                Field("deliveries", "integer", "messages", "messages of any kind in the batch"),
                Field("merged", "integer", "updates", "merged"),
                Field("duplicate", "integer", "updates", "answered before"),
                Field("refused", "integer", "updates", "refused; each counted once"),
                Field("evaluations", "integer", "messages", "evaluations accepted from evaluators"),
                Field("bytes", "integer", "bytes", "payloads received"),
                Field("queue_depth", "integer", "messages", "received and waiting for the next batch"),
                Field("judge_seconds", "float", "seconds", "decoding, judging and merging in memory"),
                Field("commit_seconds", "float", "seconds", "the ledger's transaction"),
                Field("answer_seconds", "float", "seconds", "acknowledging and sending the receipts"),
            ),
        ),
        Measurement(
            "fedkd_version",
            "A new version of the model.",
            "committed version",
            (TASK, SHARD, FORM),
            (
                Field("version", "integer", "versions", "version number"),
                Field("updates", "integer", "updates", "merged into it"),
                Field("devices", "integer", "devices", "that sent these updates"),
                Field("wait_seconds", "float", "seconds", "from the first of these updates to the commit"),
                Field("encode_seconds", "float", "seconds", "computing the weights and encoding what is published"),
                Field("commit_seconds", "float", "seconds", "the ledger's transaction"),
                Field("publish_seconds", "float", "seconds", "queueing for sending; 0 without a connection"),
                Field("delta_bytes", "integer", "bytes", "size of the delta to this version; absent if there is none"),
                Field("snapshot_bytes", "integer", "bytes", "size of the snapshot; absent if there is none"),
                Field("step_norm", "float", "", "L2 norm of the difference from the previous version, master weights"),
                Field("weights_norm", "float", "", "L2 norm of the master weights"),
            ),
        ),
        Measurement(
            "fedkd_evaluation",
            "An evaluator's measurement of one version on held-out data.",
            "accepted evaluation",
            (TASK, SHARD, COHORT),
            (
                Field("device", "string", "", "device id of the evaluator"),
                Field("version", "integer", "versions", "measured version"),
                Field("versions_behind", "integer", "versions", "newest version - version, on receipt"),
                Field("samples", "integer", "", "number of examples"),
                Field("accuracy", "float", "share", "over all examples"),
                Field("macro_f1", "float", "share", "mean over the classes"),
                Field("loss", "float", "", "mean over the examples; of a classifier in nats"),
                Field("metric", "float", "", "main metric, as the evaluator declares it; accuracy if it declares none"),
                Field("metric_name", "string", "", "name of the main metric"),
                Field("higher_is_better", "boolean", "", "direction of the main metric"),
                Field("is_share", "boolean", "", _IS_SHARE),
                Field("score", "float", "", "the main metric, times -1 if lower is better: higher is always better"),
            ),
            (
                Field(
                    RECALL_PREFIX, "float", "share", f"recall of the named class; at most {RECALL_CLASSES_MAX} names"
                ),
                Field(
                    OTHER_PREFIX,
                    "float",
                    "",
                    f"every other metric, and the main one, by name; at most {OTHER_METRICS_MAX} names",
                ),
            ),
        ),
        Measurement(
            "fedkd_presence",
            "A device connected or disconnected.",
            "presence message of this shard's devices",
            (TASK, SHARD, STATUS),
            (
                Field("device", "string", "", "device id"),
                Field("firmware", "string", "", "name and version of the device's program"),
                Field("role", "string", "", "`evaluator` for a client that never uploads, otherwise empty"),
                Field("retained", "boolean", "", "an earlier message that the broker delivers again"),
                Field("battery_percent", "float", "percent", "charge, if the device reports it as a capability"),
                Field(DISCARDED, "string", "", "why the device discarded its newest round; absent if it did not"),
            ),
        ),
        Measurement(
            "fedkd_fleet",
            "Participation, and how even it is.",
            "minute",
            (TASK, SHARD),
            (
                Field("devices_known", "integer", "devices", "ever merged, refused or seen online; without evaluators"),
                Field("devices_online", "integer", "devices", "whose latest presence is online"),
                Field("devices_contributing", "integer", "devices", "with a merged update in the last hour"),
                Field("devices_silent", "integer", "devices", "known, but without a merged update in the last hour"),
                Field("silent_share", "float", "share", "devices_silent / devices_known"),
                Field(
                    "weight_gini",
                    "float",
                    "share",
                    "Gini coefficient of the merged weight per known device since the ledger was created; 0 is even",
                ),
            ),
        ),
        Measurement(
            "fedkd_aggregator",
            "State of the aggregator; totals count from the creation of the ledger unless stated otherwise.",
            "10 seconds",
            (TASK, SHARD),
            (
                Field("version", "integer", "versions", "newest version"),
                Field("merged_total", "integer", "updates", "merged"),
                Field("duplicate_total", "integer", "updates", "answered before"),
                Field("refused_total", "integer", "updates", "refused"),
                Field("devices_total", "integer", "devices", "that ever got an answer"),
                Field("buffer_updates", "integer", "updates", "merged and waiting for the next version"),
                Field("buffer_devices", "integer", "devices", "that sent these updates"),
                Field("queue_depth", "integer", "messages", "received and waiting for the next batch"),
                Field("connected", "boolean", "", "connected to the broker"),
                Field("received_messages_total", "integer", "messages", "since this process started"),
                Field("received_bytes_total", "integer", "bytes", "payload bytes, since this process started"),
                Field("sent_messages_total", "integer", "messages", "acknowledged, since this process started"),
                Field("sent_bytes_total", "integer", "bytes", "payload bytes, since this process started"),
                Field("uptime_seconds", "float", "seconds", "since this process started"),
            ),
        ),
        Measurement(
            "fedkd_broker",
            "The broker's own statistics in $SYS (mosquitto's topics; other brokers may publish none of them).",
            "10 seconds in which the broker published any",
            (TASK, SHARD),
            (
                Field("dropped_messages_total", "integer", "messages", "dropped; more than 0 needs attention"),
                Field("store_bytes", "integer", "bytes", "stored messages"),
                Field("store_messages", "integer", "messages", "stored"),
                Field("retained_messages", "integer", "messages", "retained"),
                Field("clients_connected", "integer", "devices", "with a connection, including our own programs"),
                Field("clients_disconnected", "integer", "devices", "with a session but no connection"),
                Field("clients_total", "integer", "devices", "with a session"),
                Field("subscriptions", "integer", "", "active"),
                Field("received_messages_total", "integer", "messages", "of any MQTT type"),
                Field("sent_messages_total", "integer", "messages", "of any MQTT type"),
                Field("received_bytes_total", "integer", "bytes", "on the wire"),
                Field("sent_bytes_total", "integer", "bytes", "on the wire"),
                Field("heap_bytes", "integer", "bytes", "of the broker's memory"),
                Field("uptime_seconds", "integer", "seconds", "since the broker was started"),
            ),
        ),
        Measurement(
            "fedkd_telemetry",
            "Telemetry about the telemetry; totals count from the creation of the spool.",
            "10 seconds",
            (TASK, SHARD),
            (
                Field("recorded_total", "integer", "points", "offered by the aggregator"),
                Field(
                    "queue_dropped_total",
                    "integer",
                    "points",
                    "dropped: the queue in memory was full, or the point had no value",
                ),
                Field("spool_dropped_total", "integer", "points", "dropped: spool full, or truncated by a crash"),
                Field("server_dropped_total", "integer", "points", "dropped: the server rejected them"),
                Field("sent_total", "integer", "points", "accepted by the server"),
                Field("write_failures_total", "integer", "", "failed attempts, since this process started"),
                Field("write_seconds", "float", "seconds", "duration of the latest successful write"),
                Field("spool_bytes", "integer", "bytes", "size on disk"),
                Field(
                    "server_up",
                    "boolean",
                    "",
                    "whether the latest attempt succeeded; absent if no server is configured",
                ),
            ),
        ),
    )
}


def markdown() -> str:
    """The tables of docs/telemetry.md."""
    return "\n".join(line for measurement in MEASUREMENTS.values() for line in _markdown_of(measurement))


def _markdown_of(measurement: Measurement) -> list[str]:
    lines = [f"### {measurement.name}", "", f"{measurement.meaning} One point for each {measurement.when}.", ""]
    lines += ["| tag | values | meaning |", "| --- | --- | --- |"]
    for tag in measurement.tags:
        values = ", ".join(f"`{value}`" for value in tag.values) or (
            f"at most {tag.values_max}" if tag.values_max > 1 else "one per process"
        )
        lines.append(f"| `{tag.name}` | {values} | {tag.meaning} |")
    lines += ["", "| field | type | unit | meaning |", "| --- | --- | --- | --- |"]
    for field in measurement.fields:
        lines.append(f"| `{field.name}` | {field.type} | {field.unit or '-'} | {field.meaning} |")
    for family in measurement.families:
        lines.append(f"| `{family.name}…` | {family.type} | {family.unit or '-'} | {family.meaning} |")
    return [*lines, ""]


if __name__ == "__main__":
    print(markdown())
