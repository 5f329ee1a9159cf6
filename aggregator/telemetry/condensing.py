"""Converts a batch's updates to points: one each for the first of a kind, one sum for all others. No I/O.

A batch is large only if the aggregator is behind. A point per update would then cost CPU and database capacity that
merging needs, and tell nothing more than a sample with exact sums. So every update is recorded under light load, and
the number of points under heavy load is bounded by the number of batches.

A kind is an outcome with its reason, so that a flood of merged updates does not hide which updates are refused.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from aggregator.admission import Judged, Merge, Refuse
from aggregator.telemetry.lines import Point, Tags, Value
from aggregator.telemetry.participation import Activity
from aggregator.telemetry.schema import BATTERY, NO_REASON, TEACHER_PREFIX, UPDATE_METRICS
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.message_fields import Outcome

SINGLE_UPDATES_MAX = 8
"""Single points per kind and batch. A ninth update gets one as well: a sum of one would tell less and cost as much."""

_MERGED: Tags = ("merged", NO_REASON)
_DUPLICATE: Tags = ("duplicate", NO_REASON)


class UpdatePoints:
    """The points of one batch; keeps references to its updates."""

    def __init__(self) -> None:
        self._kinds: dict[Tags, list[Judged]] = {}

    def take(self, judged: Judged) -> None:
        """Adds one update."""
        verdict = judged.verdict
        if isinstance(verdict, Merge):
            tags = _MERGED
        elif isinstance(verdict, Refuse) and not verdict.seen_before:
            tags = ("refused", verdict.reason)
        else:
            tags = _DUPLICATE
        kind = self._kinds.get(tags)
        if kind is None:
            kind = self._kinds[tags] = []
        kind.append(judged)

    def count(self, outcome: Outcome) -> int:
        """Number of updates with this outcome."""
        return sum(len(kind) for tags, kind in self._kinds.items() if tags[0] == outcome)

    def points(self) -> list[Point]:
        """The points, grouped by kind, in the order of arrival."""
        points = []
        for tags, kind in self._kinds.items():
            singles = len(kind) if len(kind) <= SINGLE_UPDATES_MAX + 1 else SINGLE_UPDATES_MAX
            points += [_single(tags, one) for one in kind[:singles]]
            if singles < len(kind):
                points.append(_sum(tags, kind[singles:]))
        return points

    def contributions(self) -> list[Activity]:
        """One entry per update, including those without a point of their own."""
        return [
            Activity(one.device, one.verdict.weight if isinstance(one.verdict, Merge) else None)
            for kind in self._kinds.values()
            for one in kind
        ]


def _sum(tags: Tags, rest: Sequence[Judged]) -> Point:
    fields: dict[str, Value] = {
        "updates": len(rest),
        "version": rest[-1].version,
        "bytes": sum(len(one.payload) for one in rest),
    }
    merges = [one.verdict for one in rest if isinstance(one.verdict, Merge)]
    if merges:
        staleness, norms = [one.staleness for one in merges], [one.norm for one in merges]
        fields["staleness"], fields["staleness_max"] = sum(staleness), max(staleness)
        fields["weight"] = sum(one.weight for one in merges)
        fields["norm"], fields["norm_max"] = sum(norms), max(norms)
    updates = [one.update for one in rest if one.update is not None]
    if updates:
        fields["samples"] = sum(one.samples for one in updates)
        fields["local_steps"] = sum(one.local_steps for one in updates)
        fields["train_seconds"] = sum(one.train_seconds for one in updates)
        metrics = [one.metrics for one in updates]
        for name in UPDATE_METRICS:
            told = [one[name] for one in metrics if name in one]
            if told:
                fields[name] = sum(told) / len(told)
        fields |= _trained_for(metrics)
    return Point("fedkd_update", tags, fields)


def _single(tags: Tags, judged: Judged) -> Point:
    verdict, update = judged.verdict, judged.update
    fields: dict[str, Value] = {
        "device": judged.device,
        "updates": 1,
        "version": judged.version,
        "bytes": len(judged.payload),
    }
    if isinstance(verdict, Merge):
        fields["staleness"] = fields["staleness_max"] = verdict.staleness
        fields["weight"] = verdict.weight
        fields["norm"] = fields["norm_max"] = verdict.norm
    if update is not None:
        fields["base_version"] = update.base_version
        fields["samples"] = update.samples
        fields["local_steps"] = update.local_steps
        fields["train_seconds"] = update.train_seconds
        metrics = update.metrics
        for name in UPDATE_METRICS:
            if name in metrics:
                fields[name] = metrics[name]
        fields |= _trained_for([metrics])
    return Point("fedkd_update", tags, fields)


def _trained_for(updates: Sequence[Mapping[str, float]]) -> dict[str, Value]:
    """The main metric, as a mean over the updates that have the most frequent one.

    An update does not say which of its metrics that is, and devices must not choose the names of fields.
    """
    names = [name for metrics in updates if (name := _main_name(metrics)) is not None]
    if not names:
        return {}
    main = MainMetric(Counter(names).most_common(1)[0][0], higher_is_better=True)
    values = [value for metrics in updates if (value := main.value_in(metrics)) is not None]
    if not values:
        return {}
    mean = sum(values) / len(values)
    return {"metric": mean, "metric_name": main.name, "is_share": main.is_share_at(mean)}


def _main_name(metrics: Mapping[str, float]) -> str | None:
    if ACCURACY.name in metrics:
        return ACCURACY.name
    names = [name for name in metrics if name not in {"loss", BATTERY} and not name.startswith(TEACHER_PREFIX)]
    return names[0] if len(names) == 1 else None
