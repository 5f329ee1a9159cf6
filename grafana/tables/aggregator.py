"""Rates, latency, queue, ledger; the broker's own statistics; the telemetry pipeline."""

from grafana.panels import Dashboard, Panel, Row, rising_is_bad, series
from grafana.tables.overview import WAITING

_SHARD = '"shard"'
_BY_SHARD = "$col, shard $tag_shard"


def _rate(field: str, name: str) -> str:
    return f'non_negative_derivative(last("{field}"), 1s) AS "{name}"'


_RATES = Row(
    "Rates",
    (
        Panel(
            "Updates per second",
            "What is the throughput? Compare the shards with each other.",
            "timeseries",
            (
                series(
                    ", ".join(_rate(f"{name}_total", name) for name in ("merged", "duplicate", "refused")),
                    "fedkd_aggregator",
                    by=_SHARD,
                    alias=_BY_SHARD,
                ),
            ),
        ),
        Panel(
            "Payload per second",
            "How many payload bytes does the aggregator receive and send?",
            "timeseries",
            (
                series(
                    f"{_rate('received_bytes_total', 'received')}, {_rate('sent_bytes_total', 'sent')}",
                    "fedkd_aggregator",
                    by=_SHARD,
                    alias=_BY_SHARD,
                ),
            ),
            unit="Bps",
        ),
        Panel(
            "Messages per batch",
            "How large are the batches? Large batches mean that the aggregator is catching up.",
            "timeseries",
            (series('mean("deliveries") AS "mean", max("deliveries") AS "largest"', "fedkd_batch"),),
        ),
    ),
)

_LATENCY = Row(
    "Latency",
    (
        Panel(
            "One batch, mean",
            "Where is the time of a batch spent: judging, committing, or answering?",
            "timeseries",
            (
                series(
                    'mean("judge_seconds") AS "judge", mean("commit_seconds") AS "commit",'
                    ' mean("answer_seconds") AS "answer"',
                    "fedkd_batch",
                ),
            ),
            unit="s",
        ),
        Panel(
            "One batch, 99 %",
            "How long do the slowest batches take? A slow commit means a slow disk.",
            "timeseries",
            (
                series(
                    'percentile("judge_seconds", 99) AS "judge", percentile("commit_seconds", 99) AS "commit",'
                    ' percentile("answer_seconds", 99) AS "answer"',
                    "fedkd_batch",
                ),
            ),
            unit="s",
        ),
        Panel(
            "One version",
            "How long does it take to create and publish a version? Nothing is merged during this time.",
            "timeseries",
            (
                series(
                    'max("encode_seconds") AS "encode", max("commit_seconds") AS "commit",'
                    ' max("publish_seconds") AS "publish"',
                    "fedkd_version",
                ),
            ),
            unit="s",
        ),
    ),
)

_QUEUE = Row(
    "Queue and buffer",
    (
        Panel(
            "Queue",
            "Does the aggregator keep up? When the queue is full, further messages stay in the broker.",
            "timeseries",
            (series('max("queue_depth") AS "messages"', "fedkd_aggregator", by=_SHARD, alias=_BY_SHARD),),
        ),
        Panel(
            "Buffer",
            "How many updates are waiting for the next version?",
            "timeseries",
            (
                series(
                    'last("buffer_updates") AS "updates", last("buffer_devices") AS "devices"',
                    "fedkd_aggregator",
                    by=_SHARD,
                    alias=_BY_SHARD,
                ),
            ),
        ),
        Panel(
            "Wait for a version",
            "How long does a merged update wait until it is part of a version?",
            "timeseries",
            (series('mean("wait_seconds") AS "mean", max("wait_seconds") AS "longest"', "fedkd_version"),),
            unit="s",
        ),
    ),
)

_LEDGER = Row(
    "Ledger and versions",
    (
        Panel(
            "Merged since the ledger was created",
            "Does the ledger grow as expected? The numbers decrease only if the ledger was replaced.",
            "timeseries",
            (
                series(
                    'last("merged_total") AS "updates", last("devices_total") AS "devices"',
                    "fedkd_aggregator",
                    by=_SHARD,
                    alias=_BY_SHARD,
                ),
            ),
            width=6,
        ),
        Panel(
            "Updates and devices in a version",
            "How many updates and devices contribute to a version?",
            "timeseries",
            (series('mean("updates") AS "updates", mean("devices") AS "devices"', "fedkd_version"),),
            width=6,
        ),
        Panel(
            "Published",
            "How many bytes does a version cost on the downlink? Deltas should be far smaller than snapshots.",
            "timeseries",
            (series('mean("delta_bytes") AS "delta", mean("snapshot_bytes") AS "snapshot"', "fedkd_version"),),
            unit="bytes",
            width=6,
        ),
        Panel(
            "Uptime",
            "Was the aggregator restarted?",
            "timeseries",
            (series('last("uptime_seconds") AS "uptime"', "fedkd_aggregator", by=_SHARD, alias=_BY_SHARD),),
            unit="s",
            width=6,
        ),
    ),
)

_BROKER = Row(
    "Broker (mosquitto's $SYS statistics)",
    (
        Panel(
            "Dropped by the broker",
            "Has the broker dropped messages? Then a limit in its configuration is too small; devices send their "
            "updates again.",
            "stat",
            (series('last("dropped_messages_total") AS "dropped"', "fedkd_broker"),),
            unit="none",
            width=4,
            steps=rising_is_bad(1, 1_000),
        ),
        Panel(
            "Sessions",
            "How many clients are connected, and how many disconnected clients have a session?",
            "timeseries",
            (
                series(
                    'last("clients_connected") AS "connected", last("clients_disconnected") AS "disconnected"',
                    "fedkd_broker",
                ),
            ),
            width=10,
        ),
        Panel(
            "Broker storage",
            "Does the broker's store grow? Then a client with a session has not come back.",
            "timeseries",
            (series('last("store_bytes") AS "store", last("heap_bytes") AS "memory"', "fedkd_broker"),),
            unit="bytes",
            width=10,
        ),
    ),
)

_TELEMETRY = Row(
    "Telemetry pipeline",
    (
        Panel(
            "Points waiting",
            "Does this database receive everything? Waiting points are in the spool.",
            "timeseries",
            (series(WAITING, "fedkd_telemetry", by=_SHARD, alias=_BY_SHARD),),
        ),
        Panel(
            "Spool",
            "How large is the spool on the aggregator's disk? It is limited by --telemetry-spool-bytes-max; the "
            "oldest points are dropped first.",
            "timeseries",
            (series('max("spool_bytes") AS "spool"', "fedkd_telemetry", by=_SHARD, alias=_BY_SHARD),),
            unit="bytes",
        ),
        Panel(
            "Points dropped",
            "Was telemetry lost, and where? Updates are never lost.",
            "timeseries",
            (
                series(
                    'max("queue_dropped_total") AS "queue full", max("spool_dropped_total") AS "spool full",'
                    ' max("server_dropped_total") AS "refused by the server"',
                    "fedkd_telemetry",
                    by=_SHARD,
                    alias=_BY_SHARD,
                ),
            ),
        ),
    ),
)

AGGREGATOR = Dashboard(
    "fedkd-aggregator",
    "asyncfedkd: Aggregator",
    "Rates, latency, queue, ledger, broker",
    (_RATES, _LATENCY, _QUEUE, _LEDGER, _BROKER, _TELEMETRY),
    time_from="now-3h",
    refresh="10s",
)
