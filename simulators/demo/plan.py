"""The numbers of the demo, all in one place, and who its devices are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from aggregator.merging.staleness import SampleWeight
from simulators.reporting.device_timeline import OutageKind


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """How the federation of the demo runs."""

    updates_per_version: int
    """K: two thirds of the devices, so that nobody waits for the slow or the absent one."""
    versions: int = 150
    """At most so many, then training stops; those that drain the outboxes come on top. See `pace`: fewer are planned
    where the machine would learn so many, and the baselines, for longer than `fleet_seconds_max`.
    """
    fleet_seconds_max: float = 105.0
    """…or so long after the first device was started, whichever comes first."""
    server_rate: float = 0.7
    """η of FedBuff; below 1, since several devices learn the same thing from bases one or two versions apart."""
    sample_weight: SampleWeight = "uniform"
    """Each person counts alike, however much they recorded: the model is for persons who are not here."""
    version_seconds: float = 15.0
    """A version comes after so long however few updates there are; only when nearly everybody is away."""
    network_seconds_max: float = 10.0
    """How long a broker of the user's may take to answer at all."""
    drain_seconds_max: float = 45.0
    """For what still waits in the outboxes at the end; over the 30 s after which a device sends again by itself."""
    settle_seconds: float = 2.0
    """How long outboxes must stay empty: a device looks at its policy once a second, and may finish a batch."""
    evaluation_seconds_max: float = 15.0
    """For the evaluation of the last version."""
    baselines_nice: int = 5
    """They give way to the devices, but do not starve on a busy machine."""
    baselines_seconds_max: float = 120.0
    """For what the baselines still have to do at the end; those that take longer are missing in the report."""
    teacher_epochs: int | None = None
    """Passes of the teacher over its own data; None: as many as the task's recipe says."""

    @classmethod
    def of(cls, devices: int, *, quick: bool = False) -> Self:
        """For so many devices: one may be away and one slow, and versions must still come.

        With `quick` everything is shorter, so that the whole demo takes well under a minute on two cores: the way
        of it can be seen, and its accuracy is some points lower.
        """
        updates = max(1, min(2 * devices // 3, devices - 2))
        if not quick:
            return cls(updates_per_version=updates)
        return cls(
            updates_per_version=updates,
            versions=25,
            fleet_seconds_max=15.0,
            teacher_epochs=5,
            baselines_seconds_max=15.0,
            settle_seconds=1.0,
        )


@dataclass(frozen=True, kw_only=True)
class Outage:
    """Something that keeps a device away, from one share of the run to another, 0 to 1."""

    kind: OutageKind
    begin: float
    end: float


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """What one device is like."""

    title: str
    """A few words for a table."""
    duty_cycle: float
    """Share of the time that it computes; a round costs about 0.1 s of computing here."""
    outages: tuple[Outage, ...] = ()

    @property
    def has_upload_policy(self) -> bool:
        return any(outage.kind == "held" for outage in self.outages)


FAST, USUAL, SLOW = 1.0, 0.6, 0.1
"""Slow is ten times slower than fast."""

PROFILES: Sequence[DeviceProfile] = (
    DeviceProfile(title="10 times slower", duty_cycle=SLOW),
    DeviceProfile(
        title="killed and restarted", duty_cycle=USUAL, outages=(Outage(kind="killed", begin=0.30, end=0.38),)
    ),
    DeviceProfile(
        title="held until it charges",
        duty_cycle=USUAL,
        outages=(Outage(kind="held", begin=0.42, end=0.58),),
    ),
    DeviceProfile(title="fast", duty_cycle=FAST),
    DeviceProfile(
        title="offline once, then stale",
        duty_cycle=USUAL,
        outages=(Outage(kind="offline", begin=0.08, end=0.26),),
    ),
    DeviceProfile(
        title="offline twice",
        duty_cycle=FAST,
        outages=(Outage(kind="offline", begin=0.62, end=0.76), Outage(kind="offline", begin=0.84, end=0.94)),
    ),
)
"""One after the other to the devices of a task, and again from the first. At most one is away at a time."""


def assign_profiles(devices: Sequence[str]) -> dict[str, DeviceProfile]:
    """Who is like what."""
    return {device: PROFILES[number % len(PROFILES)] for number, device in enumerate(devices)}
