"""Results of the baselines: the same student without federation, on pooled data and on each person's data alone."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from simulators.reporting.metric_text import value_text
from wire_contract.main_metric import ACCURACY, MainMetric


@dataclass(kw_only=True)
class BaselineResults:
    """Results so far; on a slow machine some may never be measured."""

    epochs: int
    main: MainMetric = ACCURACY
    centralised: dict[str, float] = field(default_factory=dict)
    """Metrics on the held-out persons, by name; the same for all results here."""
    local: dict[str, dict[str, float]] = field(default_factory=dict)
    teacher: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    """Total run time of the programs that have finished."""
    given_up: str = ""
    """Why the missing ones were given up; empty while they are still expected."""

    def pooled(self, metric: str | None = None) -> float | None:
        """A metric, by default the main one, on all devices' data together; None: not measured."""
        return self.centralised.get(metric or self.main.name)

    def local_mean(self, metric: str | None = None) -> float | None:
        """Its mean over the devices measured so far; None: there are none."""
        name = metric or self.main.name
        return fmean(metrics[name] for metrics in self.local.values()) if self.local else None

    def text(self, value: float) -> str:
        """A value of the main metric, for a text."""
        return value_text(value, as_share=self.main.is_share_at(value))

    def missing(self, devices: Iterable[str]) -> tuple[str, ...]:
        """Names of the baselines that were not measured, for a report."""
        alone = tuple(f"{device} alone" for device in devices if device not in self.local)
        return alone if self.centralised else ("pooled data", *alone)

    def take(self, event: dict[str, Any]) -> None:
        """Adds one output line of `asyncfedkd baselines`."""
        match event:
            case {"who": "centralised", "metrics": metrics}:
                self.centralised = metrics
            case {"who": "teacher", "metrics": metrics}:
                self.teacher = metrics
            case {"who": "local", "device": device, "metrics": metrics}:
                self.local[device] = metrics
            case {"who": "done", "seconds": seconds}:
                self.seconds += seconds

    def is_complete(self, devices: Iterable[str]) -> bool:
        return not self.missing(devices)
