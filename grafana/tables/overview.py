"""Is it learning, and is it healthy?"""

from grafana.panels import (
    GREEN,
    RED,
    SINGLE,
    Dashboard,
    Panel,
    Query,
    Row,
    main_metric,
    newest,
    per_update,
    rising_is_bad,
    select,
    series,
    worst_and_best,
)

_MERGED = "\"outcome\" = 'merged'"

WAITING = (
    'last("recorded_total") - last("sent_total") - last("queue_dropped_total") - last("spool_dropped_total")'
    ' - last("server_dropped_total") AS "waiting"'
)

_LEARNING = Row(
    "Is it learning?",
    (
        Panel(
            "Main metric",
            "How good is the latest evaluated model? Mean over all evaluators.",
            "stat",
            main_metric('mean("metric") AS "metric"'),
            unit="none",
            width=5,
            height=5,
            share_queries=("A",),
        ),
        Panel(
            "Worst cohort",
            "How good is the model for the worst of the measured cohorts? If this is far from the mean, see the "
            "Learning dashboard.",
            "stat",
            worst_and_best("worst", ""),
            unit="none",
            width=5,
            height=5,
            share_queries=("A",),
        ),
        Panel(
            "Which metric",
            "Which metric is the task's main one, as its evaluators declare it?",
            "stat",
            (newest('"metric_name"', "fedkd_evaluation", rows=1),),
            unit="none",
            width=4,
            height=5,
            stat_field="metric_name",
        ),
        Panel(
            "Version",
            "What is the newest version? It increases while devices contribute.",
            "stat",
            (series('max("version") AS "version"', "fedkd_aggregator"),),
            unit="none",
            width=5,
            height=5,
        ),
        Panel(
            "Newest version",
            "How long ago was the newest version created? Compare with --version-seconds.",
            "stat",
            (newest('"version"', "fedkd_version", rows=1),),
            unit="dateTimeFromNow",
            width=5,
            height=5,
            stat_field="Time",
        ),
        Panel(
            "Main metric by cohort",
            "Does the model improve, and for every cohort?",
            "timeseries",
            main_metric('mean("metric")', by='"cohort"', alias="$tag_cohort"),
            unit="none",
            width=12,
            share_queries=("A",),
        ),
        Panel(
            "Staleness of merged updates",
            "How stale are the merged updates? If this rises, devices are slower than versions are published.",
            "timeseries",
            (
                series(
                    f'{per_update("staleness", "mean")}, max("staleness_max") AS "largest"',
                    "fedkd_update",
                    where=_MERGED,
                ),
                series('percentile("staleness", 90) AS "90 %"', "fedkd_update", where=f"{_MERGED} AND {SINGLE}"),
            ),
            width=12,
        ),
    ),
)

_HEALTH = Row(
    "Is it healthy?",
    (
        Panel(
            "Broker",
            "Is each aggregator connected to the broker? Without a connection nothing is merged.",
            "stat",
            (series('last("connected")', "fedkd_aggregator", by='"shard"', alias="shard $tag_shard"),),
            unit="none",
            width=4,
            height=5,
            words=(("true", "connected", GREEN), ("false", "away", RED)),
        ),
        Panel(
            "Newest merge",
            "How long ago was the last update merged?",
            "stat",
            (newest('"merged"', "fedkd_batch", where='"merged" > 0', rows=1),),
            unit="dateTimeFromNow",
            width=4,
            height=5,
            stat_field="Time",
        ),
        Panel(
            "Refused",
            "What share of the updates is refused? The Fleet dashboard shows the reasons.",
            "stat",
            (
                Query(
                    select(
                        'sum("refused") * 100.0 / (sum("merged") + sum("refused")) AS "refused"',
                        "fedkd_batch",
                    ),
                    "$col",
                ),
            ),
            unit="percent",
            width=4,
            height=5,
            steps=rising_is_bad(1, 5),
            decimals=1,
        ),
        Panel(
            "Devices online",
            "How many devices report that they are online?",
            "stat",
            (series('last("devices_online") AS "online"', "fedkd_fleet", by='"shard"', alias="shard $tag_shard"),),
            unit="none",
            width=4,
            height=5,
            interval="1m",
        ),
        Panel(
            "Queue",
            "How many messages are waiting for the aggregator? If this rises steadily, it cannot keep up with its "
            "devices.",
            "stat",
            (series('max("queue_depth") AS "queue"', "fedkd_aggregator"),),
            width=4,
            height=5,
            steps=rising_is_bad(1_000, 5_000),
        ),
        Panel(
            "Telemetry waiting",
            "How many points have not reached this database yet? If this rises, check that the database is running "
            "and has disk space, and that the token is valid.",
            "stat",
            (series(WAITING, "fedkd_telemetry", by='"shard"', alias="shard $tag_shard"),),
            width=4,
            height=5,
            steps=(*rising_is_bad(10_000, 100_000),),
        ),
        Panel(
            "Updates",
            "How many updates arrived, and with which outcome?",
            "timeseries",
            (
                series(
                    'sum("merged") AS "merged", sum("duplicate") AS "duplicate", sum("refused") AS "refused"',
                    "fedkd_batch",
                    fill="0",
                ),
            ),
            width=12,
            stacked_bars=True,
        ),
        Panel(
            "Devices",
            "How many devices participate? Silent devices had no merged update in the last hour.",
            "timeseries",
            (
                series(
                    'last("devices_known") AS "known", last("devices_online") AS "online",'
                    ' last("devices_contributing") AS "contributing", last("devices_silent") AS "silent"',
                    "fedkd_fleet",
                    by='"shard"',
                    alias="$col, shard $tag_shard",
                ),
            ),
            width=12,
            interval="1m",
        ),
    ),
)

OVERVIEW = Dashboard(
    "fedkd-overview", "asyncfedkd: Overview", "Is it learning, and is it healthy?", (_LEARNING, _HEALTH)
)
