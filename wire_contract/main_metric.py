"""The main metric of a task: its name, whether higher is better, and whether it is a share, to be shown in percent."""

import math
import re
from collections.abc import Iterable, Mapping

import msgspec

from wire_contract.limits import METRIC_MAX
from wire_contract.message_fields import MetricName

SHARE_WORDS = frozenset(
    {
        "accuracy",
        "auc",
        "auprc",
        "auroc",
        "coverage",
        "dice",
        "f1",
        "iou",
        "jaccard",
        "precision",
        "recall",
        "sensitivity",
        "specificity",
    }
)
"""A metric with one of these words in its name is a share from 0 to 1. `operations/watch/metric.js` has the same
list."""

_WORD = re.compile(r"[a-z0-9]+")


class MainMetric(msgspec.Struct, frozen=True, array_like=True):
    """Which of an evaluation's metrics is the main one, and in which direction it is good.

    A message that declares none, as those of programs of the first release, means accuracy.
    """

    name: MetricName
    higher_is_better: bool

    @property
    def is_share(self) -> bool:
        """Whether the name says that values are shares from 0 to 1."""
        return not SHARE_WORDS.isdisjoint(_WORD.findall(self.name.lower()))

    def is_share_at(self, *values: float) -> bool:
        """Whether these values can be shown in percent."""
        return self.is_share and all(0 <= value <= 1 for value in values)

    @property
    def direction(self) -> str:
        """The direction in words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def value_in(self, metrics: Mapping[str, float]) -> float | None:
        """Its value among `metrics`; None if it is missing, or if no axis could show it."""
        value = metrics.get(self.name)
        if value is None or not math.isfinite(value) or abs(value) > METRIC_MAX:
            return None
        return None if self == ACCURACY and not 0 <= value <= 1 else value

    def best(self, values: Iterable[float]) -> float:
        """The best of `values`, of which there must be at least one."""
        return max(values) if self.higher_is_better else min(values)

    def worst(self, values: Iterable[float]) -> float:
        """The worst of `values`, of which there must be at least one."""
        return min(values) if self.higher_is_better else max(values)


ACCURACY = MainMetric("accuracy", higher_is_better=True)
"""The only main metric that programs of the first release know."""
