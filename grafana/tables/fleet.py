"""Devices that are online, stale, silent or failing; the main metric of each cohort."""

from grafana.panels import (
    SINGLE,
    Dashboard,
    Panel,
    Query,
    Row,
    grouped,
    newest,
    per_update,
    renamed,
    rising_is_bad,
    select,
    series,
    sorted_by,
    without,
)

_MERGED = "\"outcome\" = 'merged'"
_REFUSED = "\"outcome\" = 'refused'"
_SINGLE_MERGED = f"{_MERGED} AND {SINGLE}"

_COUNTS = Row(
    "Participation",
    (
        *(
            Panel(
                title,
                question,
                "stat",
                (series(f'last("{field}")', "fedkd_fleet", by='"shard"', alias="shard $tag_shard"),),
                unit=unit,
                width=4,
                height=4,
                interval="1m",
                steps=steps,
            )
            for title, field, unit, question, steps in (
                ("Known", "devices_known", "none", "How many devices has the ledger ever seen?", ()),
                ("Online", "devices_online", "none", "How many devices report that they are online?", ()),
                (
                    "Contributing",
                    "devices_contributing",
                    "none",
                    "How many devices had an update merged in the last hour?",
                    (),
                ),
                (
                    "Silent",
                    "devices_silent",
                    "none",
                    "How many known devices had no update merged in the last hour?",
                    (),
                ),
                ("Silent share", "silent_share", "percentunit", "What share of the known devices is silent?", ()),
                (
                    "Concentration",
                    "weight_gini",
                    "none",
                    "Do a few devices dominate? Gini coefficient of the merged weight: 0 all equal, 1 only one device.",
                    rising_is_bad(0.5, 0.8),
                ),
            )
        ),
        Panel(
            "Devices",
            "How does the number of devices change?",
            "timeseries",
            (
                series(
                    'last("devices_online") AS "online", last("devices_contributing") AS "contributing",'
                    ' last("devices_silent") AS "silent"',
                    "fedkd_fleet",
                    by='"shard"',
                    alias="$col, shard $tag_shard",
                ),
            ),
            width=12,
            interval="1m",
        ),
        Panel(
            "Connects and disconnects",
            "Is there a reconnect storm? If both are high at once, check the broker and the network.",
            "timeseries",
            (
                series(
                    'count("retained")',
                    "fedkd_presence",
                    by='"status"',
                    where='"retained" = false',
                    fill="0",
                    alias="$tag_status",
                ),
            ),
            width=12,
            stacked_bars=True,
        ),
        Panel(
            "Latest presence of each device",
            "Which devices are online, with which firmware and battery level? From the newest 5,000 presence messages.",
            "table",
            (newest('"device", "status", "role", "firmware", "battery_percent"', "fedkd_presence"),),
            width=16,
            height=9,
            transformations=(
                grouped(
                    {
                        "device": "groupby",
                        "status": "first",
                        "Time": "first",
                        "firmware": "first",
                        "role": "first",
                        "battery_percent": "first",
                    }
                ),
                renamed(
                    {
                        "device": "device",
                        "status (first)": "status",
                        "Time (first)": "since",
                        "firmware (first)": "firmware",
                        "role (first)": "role",
                        "battery_percent (first)": "battery",
                    }
                ),
            ),
            units=(("battery", "percent"), ("since", "dateTimeFromNow")),
        ),
        Panel(
            "Firmware",
            "Which firmware versions are in use? From the same messages.",
            "barchart",
            (newest('"device", "firmware"', "fedkd_presence"),),
            unit="none",
            width=8,
            height=9,
            transformations=(
                grouped({"device": "groupby", "firmware": "first"}),
                grouped({"firmware (first)": "groupby", "device": "count"}),
                renamed({"firmware (first)": "firmware", "device (count)": "devices"}),
            ),
        ),
    ),
)

_STALE = Row(
    "Stale and silent",
    (
        Panel(
            "Furthest behind",
            "Which updates were the most stale? Their devices are slow, or offline for long periods.",
            "table",
            (
                Query(
                    select(
                        'top("staleness", 50) AS "staleness", "device", "base_version", "version", "weight"',
                        "fedkd_update",
                        where=_SINGLE_MERGED,
                    ),
                    is_table=True,
                ),
            ),
            unit="none",
            width=12,
            height=9,
            transformations=(sorted_by("staleness", descending=True),),
        ),
        Panel(
            "Silent longest",
            "Which devices have gone longest without a merged update? From the newest 5,000 merged updates that were "
            "recorded individually; devices that are not among them are only counted.",
            "table",
            (newest('"device", "version", "staleness", "train_seconds"', "fedkd_update", where=_SINGLE_MERGED),),
            unit="none",
            width=12,
            height=9,
            transformations=(
                grouped(
                    {
                        "device": "groupby",
                        "Time": "first",
                        "version": "first",
                        "staleness": "first",
                        "train_seconds": "mean",
                    }
                ),
                renamed(
                    {
                        "device": "device",
                        "Time (first)": "newest update",
                        "version (first)": "into version",
                        "staleness (first)": "staleness",
                        "train_seconds (mean)": "training",
                    }
                ),
                sorted_by("newest update", descending=False),
            ),
            units=(("newest update", "dateTimeFromNow"), ("training", "s")),
        ),
        Panel(
            "Training time",
            "How long do devices train for one update? The 90 % line shows the slow devices.",
            "timeseries",
            (
                series(per_update("train_seconds", "mean"), "fedkd_update", where=_MERGED),
                series(
                    'percentile("train_seconds", 90) AS "90 %", max("train_seconds") AS "longest"',
                    "fedkd_update",
                    where=_SINGLE_MERGED,
                ),
            ),
            unit="s",
            width=12,
        ),
        Panel(
            "Size of updates",
            "How many bytes does a device send for one update?",
            "timeseries",
            (
                series(per_update("bytes", "mean"), "fedkd_update"),
                series('percentile("bytes", 90) AS "90 %", max("bytes") AS "largest"', "fedkd_update", where=SINGLE),
            ),
            unit="bytes",
            width=12,
        ),
    ),
)

_FAILING = Row(
    "Failing",
    (
        Panel(
            "Refusals by reason",
            "Why are updates refused? too_stale, unknown_base: devices report too late; malformed, layout, "
            "not_finite: a faulty program; norm, rate, budget: a limit was reached.",
            "timeseries",
            (series('sum("updates")', "fedkd_update", by='"reason"', where=_REFUSED, fill="0", alias="$tag_reason"),),
            width=12,
            stacked_bars=True,
        ),
        Panel(
            "Devices with refused updates",
            "Which devices are refused, and why? From the newest 5,000 refusals that were recorded individually.",
            "table",
            (newest('"device", "reason", "bytes"', "fedkd_update", where=f"{_REFUSED} AND {SINGLE}"),),
            unit="none",
            width=12,
            height=9,
            transformations=(
                grouped({"device": "groupby", "reason": "groupby", "bytes": "count", "Time": "first"}),
                renamed(
                    {"device": "device", "reason": "reason", "bytes (count)": "refusals", "Time (first)": "newest"}
                ),
                sorted_by("refusals", descending=True),
            ),
            units=(("newest", "dateTimeFromNow"),),
        ),
    ),
)

_COHORTS = Row(
    "Cohorts",
    (
        Panel(
            "Cohorts now",
            "How good is the latest evaluated model for each cohort, by which metric, and how many versions behind is "
            "its evaluator? The worst is first; shares from 0 to 1.",
            "table",
            (
                Query(
                    select(
                        'last("metric") AS "metric", "metric_name", "higher_is_better", "score", "accuracy",'
                        ' "macro_f1", "loss", "version", "versions_behind", "samples", "device"',
                        "fedkd_evaluation",
                        group='"cohort"',
                    ),
                    is_table=True,
                ),
            ),
            unit="none",
            width=24,
            units=(("accuracy", "percentunit"), ("macro_f1", "percentunit"), ("Time", "dateTimeFromNow")),
            transformations=(sorted_by("score", descending=False), without("score")),
        ),
    ),
)

_ONE_DEVICE = Row(
    "One device",
    (
        Panel(
            "Updates of devices whose id begins with the text above",
            "What happened to the latest updates of one device? Enter its id in the field at the top of the page.",
            "table",
            (
                newest(
                    '"device", "outcome", "reason", "base_version", "staleness", "weight", "bytes", "train_seconds",'
                    ' "metric_name", "metric", "battery_percent"',
                    "fedkd_update",
                    where=f'{SINGLE} AND "device" =~ /^${{device:regex}}/',
                    rows=200,
                ),
            ),
            unit="none",
            width=24,
            height=9,
            units=(
                ("bytes", "bytes"),
                ("train_seconds", "s"),
                ("battery_percent", "percent"),
            ),
        ),
    ),
)

FLEET = Dashboard(
    "fedkd-fleet",
    "asyncfedkd: Fleet",
    "Which devices are online, stale, silent or failing, and how good is the model for each cohort?",
    (_COUNTS, _STALE, _FAILING, _COHORTS, _ONE_DEVICE),
    time_from="now-6h",
    refresh="1m",
    has_device=True,
)
