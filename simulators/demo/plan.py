"""The demo's parameters, and the profiles of its devices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from aggregator.merging.staleness import SampleWeight
from simulators.reporting.device_timeline import OutageKind


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """Parameters of the demo's federation."""

    updates_per_version: int
    """K: two thirds of the devices, so that a version waits neither for the slow device nor for one that is away."""
    versions: int = 150
    """Training stops at this version; draining the outboxes can add a few. On a slow machine `calibration` plans fewer,
    so that federation and baselines fit into `fleet_seconds_max`.
    """
    fleet_seconds_max: float = 105.0
    """Training stops at the latest this long after the first device was started."""
    server_rate: float = 0.7
    """η of FedBuff; below 1, because several devices contribute similar steps from bases one or two versions apart."""
    sample_weight: SampleWeight = "uniform"
    """Each person counts equally, however much data they recorded: the model is for unseen persons."""
    version_seconds: float = 15.0
    """Publish at most this long after the first buffered update; reached only when nearly all devices are away."""
    network_seconds_max: float = 10.0
    """Time for the user's own broker to answer."""
    drain_seconds_max: float = 45.0
    """Time for the outboxes to empty at the end; longer than the 30 s after which a device resends by itself."""
    settle_seconds: float = 2.0
    """How long all outboxes must stay empty: a device checks its policy once a second, and may still finish a round."""
    evaluation_seconds_max: float = 15.0
    """Time for the evaluator to measure the last version."""
    baselines_nice: int = 5
    """nice(1) value: lower priority than the devices, but not so low that they starve on a busy machine."""
    baselines_seconds_max: float = 120.0
    """Time for the baselines after the federation; later ones are missing in the report."""
    teacher_epochs: int | None = None
    """Epochs of the teacher's pre-training; None: the task's recipe decides."""

    @classmethod
    def of(cls, devices: int, *, quick: bool = False) -> Self:
        """The plan for this number of devices: versions must keep coming with one device away and one slow.

        With `quick` the whole demo takes well under a minute on two cores; its accuracy is some points lower.
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
    """A period in which a device is offline, killed or held; begin and end are shares of the run, 0 to 1.

    One that begins at 0 has begun when the device starts.
    """

    kind: OutageKind
    begin: float
    end: float


Gate = Literal["charging", "approval"]


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """How one device behaves."""

    title: str
    """A short description for tables."""
    duty_cycle: float
    """Share of the time in which it computes; one round takes about 0.1 s of CPU time in the demo."""
    outages: tuple[Outage, ...] = ()
    gate: Gate | None = None
    """What its uploads wait for; None: for nothing."""


FAST, USUAL, SLOW = 1.0, 0.6, 0.1
"""Duty cycles; slow is ten times slower than fast."""

PROFILES: Sequence[DeviceProfile] = (
    DeviceProfile(title="10 times slower", duty_cycle=SLOW),
    DeviceProfile(
        title="killed and restarted", duty_cycle=USUAL, outages=(Outage(kind="killed", begin=0.30, end=0.38),)
    ),
    DeviceProfile(
        title="held until it charges",
        duty_cycle=USUAL,
        gate="charging",
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
"""Assigned to a task's devices in turn, cyclically. At most one device has an outage at any time."""


HOSPITALS: Sequence[DeviceProfile] = (
    DeviceProfile(
        title="approved late", duty_cycle=USUAL, gate="approval", outages=(Outage(kind="held", begin=0.0, end=0.35),)
    ),
    DeviceProfile(title="fast", duty_cycle=FAST, gate="approval"),
    DeviceProfile(title="usual", duty_cycle=USUAL, gate="approval"),
    DeviceProfile(
        title="killed and restarted",
        duty_cycle=USUAL,
        gate="approval",
        outages=(Outage(kind="killed", begin=0.42, end=0.50),),
    ),
    DeviceProfile(
        title="10 times slower, offline once",
        duty_cycle=SLOW,
        gate="approval",
        outages=(Outage(kind="offline", begin=0.60, end=0.80),),
    ),
)
"""The same for hospitals, which upload only with a compliance approval."""


def assign_profiles(
    devices: Sequence[str], *, hospitals: bool = False, notes: Mapping[str, str] | None = None
) -> dict[str, DeviceProfile]:
    """The profile of each device; `notes` on a device's data are added to its title."""
    profiles = HOSPITALS if hospitals else PROFILES

    def of(number: int, device: str) -> DeviceProfile:
        profile, note = profiles[number % len(profiles)], (notes or {}).get(device)
        return replace(profile, title=f"{note}, {profile.title}") if note else profile

    return {device: of(number, device) for number, device in enumerate(devices)}
