"""The main metric by version and cohort, staleness against weight, bytes per percentage point."""

from grafana.panels import (
    COHORT,
    NO_SHARE,
    SHARE,
    SINGLE,
    STEP,
    Axes,
    Dashboard,
    Expression,
    Panel,
    Query,
    Row,
    main_metric,
    newest,
    per_update,
    select,
    series,
    worst_and_best,
)

_MERGED = "\"outcome\" = 'merged'"
_SINGLE_MERGED = f"{_MERGED} AND {SINGLE}"
_POINTS = 2_000
"""Newest points of a panel. Chosen: about as many as a wide screen has pixels; more would only slow the browser
down."""

_MAIN = Row(
    "Main metric",
    (
        Panel(
            "Main metric by version",
            "How good is each version for each cohort? The newest 2,000 evaluations; shares from 0 to 1.",
            "xychart",
            (newest('"version", "metric", "cohort"', "fedkd_evaluation", where=COHORT, rows=_POINTS),),
            unit="none",
            width=12,
            height=10,
            axes=Axes("version", "metric", x_unit="none", x_label="version"),
            transformations=(
                {
                    "id": "partitionByValues",
                    "options": {"fields": ["cohort"], "keepFields": False, "naming": {"asLabels": True}},
                },
            ),
        ),
        Panel(
            "Main metric by cohort",
            "Does the main metric improve over time? The table Cohorts now on Fleet names it and its direction.",
            "timeseries",
            main_metric('mean("metric")', by='"cohort"', where=COHORT, alias="$tag_cohort"),
            unit="none",
            width=12,
            height=10,
            share_queries=("A",),
        ),
        Panel(
            "Best and worst cohort",
            "Does the model improve for some cohorts and not for others? By the direction of the main metric.",
            "timeseries",
            worst_and_best("worst", "best", where=COHORT),
            unit="none",
            share_queries=("A",),
        ),
        Panel(
            "Loss by cohort",
            "Does the loss still fall? A classifier whose loss rises at constant accuracy is over-confident.",
            "timeseries",
            (series('mean("loss")', "fedkd_evaluation", by='"cohort"', where=COHORT, alias="$tag_cohort"),),
        ),
        Panel(
            "Evaluators behind",
            "How many versions behind are the evaluators?",
            "timeseries",
            (series('max("versions_behind")', "fedkd_evaluation", by='"cohort"', where=COHORT, alias="$tag_cohort"),),
        ),
    ),
)

_OTHERS = Row(
    "Other metrics",
    (
        Panel(
            "Accuracy by cohort",
            "Classifiers: does the accuracy improve over time?",
            "timeseries",
            (series('mean("accuracy")', "fedkd_evaluation", by='"cohort"', where=COHORT, alias="$tag_cohort"),),
            unit="percentunit",
            width=6,
            y_max=1.0,
        ),
        Panel(
            "Macro F1 by cohort",
            "Classifiers: are rare classes learned as well? If macro F1 is far below the accuracy, they are not.",
            "timeseries",
            (series('mean("macro_f1")', "fedkd_evaluation", by='"cohort"', where=COHORT, alias="$tag_cohort"),),
            unit="percentunit",
            width=6,
            y_max=1.0,
        ),
        Panel(
            "Recall by class",
            "Classifiers: which classes are not recognised?",
            "timeseries",
            (series("mean(/^recall_/)", "fedkd_evaluation", where=COHORT),),
            unit="percentunit",
            width=6,
            y_max=1.0,
        ),
        Panel(
            "Other metrics",
            "How do further metrics of the evaluators develop? Their names have the prefix other.",
            "timeseries",
            (series("mean(/^other_/)", "fedkd_evaluation", where=COHORT),),
            unit="none",
            width=6,
        ),
    ),
)

_STALENESS = Row(
    "Staleness and weight",
    (
        Panel(
            "Weight against staleness",
            "How much weight do stale updates get? The newest 2,000 merged updates; different sample counts spread "
            "the points.",
            "xychart",
            (newest('"staleness", "weight"', "fedkd_update", where=_SINGLE_MERGED, rows=_POINTS),),
            unit="none",
            height=9,
            axes=Axes("staleness", "weight", x_unit="none", x_label="staleness (versions)"),
        ),
        Panel(
            "Staleness of merged updates",
            "How is staleness distributed, and does the distribution shift? The newest 5,000 merged updates.",
            "heatmap",
            (Query(newest('"staleness"', "fedkd_update", where=_SINGLE_MERGED).text, "$col"),),
            height=9,
        ),
        Panel(
            "Concentration of weight",
            "Do a few devices dominate? Gini coefficient of the merged weight per device.",
            "timeseries",
            (series('last("weight_gini")', "fedkd_fleet", by='"shard"', alias="shard $tag_shard"),),
            unit="none",
            height=9,
            interval="1m",
            y_max=1.0,
        ),
    ),
)

_COST = Row(
    "Communication cost",
    (
        Panel(
            "Bytes per percentage point",
            "How many bytes did devices send for each percentage point between the worst and the best value of the "
            "main metric in this time range? Payloads of all updates; no data if the metric is no share, or until two "
            "different values were measured.",
            "stat",
            (
                Query(select('sum("bytes") AS "bytes"', "fedkd_update"), "$col", hidden=True),
                Query(
                    select(
                        'mean("metric") AS "metric"',
                        "fedkd_evaluation",
                        where=f"{COHORT} AND {SHARE}",
                        group=STEP,
                        tail="fill(none)",
                    ),
                    "$col",
                    hidden=True,
                ),
                Expression("reduce", "A", "sum", hidden=True),
                Expression("reduce", "B", "max", hidden=True),
                Expression("reduce", "B", "min", hidden=True),
                Expression("math", "$C / (($D - $E) * 100)"),
            ),
            unit="bytes",
            width=6,
            height=9,
        ),
        Panel(
            "Main metric against bytes",
            "How does the main metric develop with the bytes sent? Shares from 0 to 1; payloads of updates since the "
            "beginning of the time range.",
            "xychart",
            (
                Query(
                    select('cumulative_sum(sum("bytes")) AS "bytes"', "fedkd_update", group=STEP, tail="fill(0)"),
                    is_table=True,
                ),
                Query(
                    select(
                        'mean("metric") AS "metric"',
                        "fedkd_evaluation",
                        where=COHORT,
                        group=STEP,
                        tail="fill(none)",
                    ),
                    is_table=True,
                ),
            ),
            unit="none",
            width=9,
            height=9,
            axes=Axes("bytes", "metric", x_unit="bytes", x_label="bytes sent by devices", lines=True),
            transformations=({"id": "joinByField", "options": {"byField": "Time", "mode": "inner"}},),
        ),
        Panel(
            "Bytes of updates and of versions",
            "Which direction costs more? Versions are counted once, as published; each device that downloads one "
            "receives these bytes.",
            "timeseries",
            (
                series('sum("bytes") AS "updates"', "fedkd_update", fill="0"),
                series(
                    'sum("delta_bytes") AS "deltas", sum("snapshot_bytes") AS "snapshots"', "fedkd_version", fill="0"
                ),
            ),
            unit="bytes",
            width=9,
            height=9,
            stacked_bars=True,
        ),
    ),
)

_STEPS = Row(
    "Model steps",
    (
        Panel(
            "Step of a version",
            "How much does each version change the model? Falling towards zero: training has converged. Rising: "
            "investigate.",
            "timeseries",
            (series('mean("step_norm") AS "step"', "fedkd_version"),),
        ),
        Panel(
            "Norm of updates",
            "How large are the updates? If a few are far above the rest, check the aggregator's norm limit.",
            "timeseries",
            (
                series(
                    f'{per_update("norm", "mean")}, max("norm_max") AS "largest"',
                    "fedkd_update",
                    where=_MERGED,
                ),
            ),
        ),
        Panel(
            "Training on devices",
            "Do devices still learn from their own data? Measured on their training data, so not a measure of the "
            "model.",
            "timeseries",
            (
                series('mean("metric") AS "metric"', "fedkd_update", where=f"{_MERGED} AND {SHARE}"),
                series('mean("metric") AS "metric"', "fedkd_update", where=f"{_MERGED} AND {NO_SHARE}"),
                series('mean("loss") AS "loss"', "fedkd_update", where=_MERGED),
            ),
            share_queries=("A",),
        ),
    ),
)

LEARNING = Dashboard(
    "fedkd-learning",
    "asyncfedkd: Learning",
    "The main metric by version and cohort, staleness against weight, bytes per percentage point",
    (_MAIN, _OTHERS, _STALENESS, _COST, _STEPS),
    time_from="now-24h",
    refresh="1m",
    has_cohorts=True,
)
