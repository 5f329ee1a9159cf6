"""What the same student reached without federation: on everybody's data in one heap, and on one person's alone."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any


@dataclass(kw_only=True)
class BaselineResults:
    """What was measured so far; a slow machine may never get to all of it."""

    epochs: int
    centralised: dict[str, float] = field(default_factory=dict)
    """Metrics on the held-out persons by name; so are all here."""
    local: dict[str, dict[str, float]] = field(default_factory=dict)
    teacher: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    """Of the programs that have told they are done, together."""
    given_up: str = ""
    """Why the run went on without those that are missing; empty while they are still expected."""

    def pooled(self, metric: str = "accuracy") -> float | None:
        """On everybody's data together; None: not measured."""
        return self.centralised.get(metric)

    def local_mean(self, metric: str = "accuracy") -> float | None:
        """Mean over the devices that were measured; None: there are none."""
        return fmean(metrics[metric] for metrics in self.local.values()) if self.local else None

    def missing(self, devices: Iterable[str]) -> tuple[str, ...]:
        """What was not measured, for a person."""
        alone = tuple(f"{device} alone" for device in devices if device not in self.local)
        return alone if self.centralised else ("pooled data", *alone)

    def take(self, event: dict[str, Any]) -> None:
        """One line of the command."""
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
