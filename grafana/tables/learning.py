"""Accuracy by version and cohort, staleness against weight, bytes per point of accuracy."""

from grafana.panels import (
    COHORT,
    SINGLE,
    STEP,
    Axes,
    Dashboard,
    Expression,
    Panel,
    Query,
    Row,
    newest,
    per_update,
    select,
    series,
)

_MERGED = "\"outcome\" = 'merged'"
_SINGLE_MERGED = f"{_MERGED} AND {SINGLE}"
_POINTS = 2_000
"""Newest points of a panel. Chosen: about as many as a wide screen has pixels; more would only slow the browser
down."""

_ACCURACY = Row(
    "Accuracy",
    (
        Panel(
            "Accuracy by version",
            "How accurate is each version for each cohort? The newest 2,000 evaluations.",
            "xychart",
            (newest('"version", "accuracy", "cohort"', "fedkd_evaluation", where=COHORT, rows=_POINTS),),
            unit="percentunit",
            width=12,
            height=10,
            axes=Axes("version", "accuracy", x_unit="none", x_label="version"),
            transformations=(
                {
                    "id": "partitionByValues",
                    "options": {"fields": ["cohort"], "keepFields": False, "naming": {"asLabels": True}},
                },
            ),
        ),
        Panel(
            "Accuracy by cohort",
            "Does the accuracy improve over time?",
            "timeseries",
            (series('mean("accuracy")', "fedkd_evaluation", by='"cohort"', where=COHORT, alias="$tag_cohort"),),
            unit="percentunit",
            width=12,
            height=10,
            y_max=1.0,
        ),
        Panel(
            "Best and worst cohort",
            "Does the model improve for some cohorts and not for others?",
            "timeseries",
            (series('max("accuracy") AS "best", min("accuracy") AS "worst"', "fedkd_evaluation", where=COHORT),),
            unit="percentunit",
            y_max=1.0,
        ),
        Panel(
            "Macro F1 by cohort",
            "Are rare classes learned as well? If macro F1 is far below the accuracy, they are not.",
            "timeseries",
            (series('mean("macro_f1")', "fedkd_evaluation", by='"cohort"', where=COHORT, alias="$tag_cohort"),),
            unit="percentunit",
            y_max=1.0,
        ),
        Panel(
            "Loss by cohort",
            "Is the model well calibrated? A rising loss at constant accuracy means over-confidence.",
            "timeseries",
            (series('mean("loss")', "fedkd_evaluation", by='"cohort"', where=COHORT, alias="$tag_cohort"),),
        ),
        Panel(
            "Recall by class",
            "Which classes are not recognised?",
            "timeseries",
            (series("mean(/^recall_/)", "fedkd_evaluation", where=COHORT),),
            unit="percentunit",
            width=12,
            y_max=1.0,
        ),
        Panel(
            "Evaluators behind",
            "How many versions behind are the evaluators?",
            "timeseries",
            (series('max("versions_behind")', "fedkd_evaluation", by='"cohort"', where=COHORT, alias="$tag_cohort"),),
            width=12,
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
            "Bytes per point of accuracy",
            "How many bytes did devices send for each percentage point between the worst and the best accuracy in this "
            "time range? Payloads of all updates; no data until two different accuracies were measured.",
            "stat",
            (
                Query(select('sum("bytes") AS "bytes"', "fedkd_update"), "$col", hidden=True),
                Query(
                    select(
                        'mean("accuracy") AS "accuracy"',
                        "fedkd_evaluation",
                        where=COHORT,
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
            "Accuracy against bytes",
            "How does accuracy grow with the bytes sent? Payloads of updates since the beginning of the time range.",
            "xychart",
            (
                Query(
                    select('cumulative_sum(sum("bytes")) AS "bytes"', "fedkd_update", group=STEP, tail="fill(0)"),
                    is_table=True,
                ),
                Query(
                    select(
                        'mean("accuracy") AS "accuracy"',
                        "fedkd_evaluation",
                        where=COHORT,
                        group=STEP,
                        tail="fill(none)",
                    ),
                    is_table=True,
                ),
            ),
            unit="percentunit",
            width=9,
            height=9,
            axes=Axes("bytes", "accuracy", x_unit="bytes", x_label="bytes sent by devices", lines=True),
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
            (series('mean("loss") AS "loss", mean("accuracy") AS "accuracy"', "fedkd_update", where=_MERGED),),
            units=(("accuracy", "percentunit"),),
        ),
    ),
)

LEARNING = Dashboard(
    "fedkd-learning",
    "asyncfedkd: Learning",
    "Accuracy by version and cohort, staleness against weight, bytes per point of accuracy",
    (_ACCURACY, _STALENESS, _COST, _STEPS),
    time_from="now-24h",
    refresh="1m",
    has_cohorts=True,
)
