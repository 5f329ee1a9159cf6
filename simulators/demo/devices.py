"""The demo's devices: each is a real client process with its own proxy to the broker, state folder and profile."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from operations.proxy import Proxy
from simulators.audit.exactly_once import OutboxState, read_outbox
from simulators.demo.connection import BrokerAccess
from simulators.demo.plan import DeviceProfile, Outage
from simulators.processes.processes import Child, Processes
from simulators.reporting.device_timeline import DeviceTimeline, EventReader
from wire_contract.files.atomic_write import write_atomically

OUTBOX_NAME = "outbox.sqlite"
_RESTART_SECONDS_MIN = 2.0
"""A killed device is restarted after this time at the earliest, so that the view shows it."""
_RETRAIN_SECONDS = 5
"""Instead of the default of 60: in a run of two minutes, a device that waits for a version must not stand idle for half
of it."""
_RECEIPT_SECONDS = 10
"""Instead of the default of 30, for the same reason."""
_APPROVED_FOR = timedelta(days=1)
_BATTERY_FULL, _BATTERY_LOW, _BATTERY_MIN = 80, 5, 20
"""Percent. Chosen: clearly above and below the minimum of the device's policy."""


@dataclass(kw_only=True)
class Device:
    """The device of one person."""

    name: str
    profile: DeviceProfile
    access: BrokerAccess
    proxy: Proxy
    """Its connection to the broker goes through this proxy."""
    task: str
    """As the user named it."""
    task_name: str
    data_flags: Sequence[str]
    folder: Path
    """For its state and the file that simulates its battery and charger."""
    teacher: Path | None
    seed: int
    schedule_versions: int
    """Number of versions over which the learning rate decays."""
    processes: Processes
    clock: Callable[[], float] = time.time
    child: Child | None = None
    events: EventReader | None = None
    timeline: DeviceTimeline = field(init=False)
    _killed_at: float = 0.0
    _begun: set[Outage] = field(default_factory=set)
    _ended: set[Outage] = field(default_factory=set)
    _charging: bool = True

    def __post_init__(self) -> None:
        self.timeline = DeviceTimeline(device=self.name)

    def start(self) -> None:
        """Starts the client; after a kill it continues from its state folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._probe.exists():
            self._write_probe(battery=_BATTERY_FULL)
            self._allow_uploads(not self._begin_at_start())
        arguments = [
            *("-m", "device_client", "run"),
            *self.access.flags(self.name, task=self.task, proxy_port=self.proxy.port),
            *self.data_flags,
            *("--device", self.name),
            *("--state", str(self.folder / "state")),
            *([] if self.teacher is None else ["--teacher", str(self.teacher)]),
            *("--seed", str(self.seed), "--schedule-versions", str(self.schedule_versions)),
            *("--duty-cycle", str(self.profile.duty_cycle)),
            *("--simulated-state", str(self._probe)),
            # Lets the demo stop training on all devices (a low battery) while uploads continue.
            *("--train-battery-percent-min", str(_BATTERY_MIN)),
            # Offline devices keep training, and a lost message is sent again after seconds instead of half a minute.
            *("--retrain-after-seconds", str(_RETRAIN_SECONDS)),
            *("--receipt-timeout-seconds", str(_RECEIPT_SECONDS), "--resend-delay-max-seconds", "5"),
            *(["--upload-charging"] if self.profile.gate == "charging" else []),
            *(["--approval", str(self._approval)] if self.profile.gate == "approval" else []),
            *("--log-format", "json"),
        ]
        self.child = self.processes.start(
            self.name, arguments, environment=self.access.environment, events=True, forked=True
        )
        if self.events is None:
            self.events = EventReader(self.child.out)

    def look(self) -> None:
        """Adds new event lines to the timeline."""
        if self.events is not None:
            for event in self.events.new():
                self.timeline.take(event)

    def follow(self, progress: float) -> None:
        """Begins and ends the outages that are due at this point of the run, 0 to 1."""
        for outage in self.profile.outages:
            if outage not in self._begun and progress >= outage.begin and self._may_begin(outage):
                self._begun.add(outage)
                self._begin(outage)
            elif outage in self._begun - self._ended and progress >= outage.end and self._may_end(outage):
                self._end(outage)

    def come_back(self) -> None:
        """Ends all outages of this device now."""
        for outage in self._begun - self._ended:
            self._end(outage)

    def stop_training(self) -> None:
        """Stops training; the outbox is still sent. The device notices within a second, and logs an event."""
        self._write_probe(battery=_BATTERY_LOW)

    def outbox(self) -> OutboxState | None:
        return read_outbox(self.folder / "state" / OUTBOX_NAME, device=self.name)

    @property
    def is_drained(self) -> bool:
        """Whether every update has its receipt."""
        count = self.outbox()
        return count is not None and not count.waiting

    def _may_begin(self, outage: Outage) -> bool:
        # A kill during training is the hardest case.
        return self.timeline.is_training if outage.kind == "killed" else self.timeline.made > 0

    def _may_end(self, outage: Outage) -> bool:
        return outage.kind != "killed" or self.clock() - self._killed_at >= _RESTART_SECONDS_MIN

    def _begin(self, outage: Outage) -> None:
        match outage.kind:
            case "offline":
                self.proxy.cut()
            case "killed":
                assert self.child is not None
                self.processes.kill(self.child)
                self._killed_at = self.clock()
            case "held":
                self._allow_uploads(False)
        self.timeline.begin_outage(outage.kind, self.clock())

    def _end(self, outage: Outage) -> None:
        self._ended.add(outage)
        self.timeline.end_outage(outage.kind, self.clock())
        match outage.kind:
            case "offline":
                self.proxy.restore()
            case "killed":
                self.start()
            case "held":
                self._allow_uploads(True)

    def _begin_at_start(self) -> bool:
        """Begins outages that are there from the start; returns whether uploads are held."""
        first = {outage for outage in self.profile.outages if outage.begin <= 0.0}
        self._begun |= first
        for outage in first:
            self.timeline.begin_outage(outage.kind, self.clock())
        return any(outage.kind == "held" for outage in first)

    def _allow_uploads(self, are_allowed: bool) -> None:
        """Gives or withdraws what the profile's gate waits for."""
        if self.profile.gate == "charging":
            self._charging = are_allowed
            self._write_probe(battery=_BATTERY_FULL)
        elif not are_allowed:
            self._approval.unlink(missing_ok=True)
        elif self.profile.gate == "approval":
            now = datetime.fromtimestamp(self.clock(), tz=UTC)
            approval = {
                "task": self.task_name,
                "approved_by": "demo",
                "approved_at": now.isoformat(),
                "expires_at": (now + _APPROVED_FOR).isoformat(),
                "devices": [self.name],
            }
            write_atomically(self._approval, json.dumps(approval).encode(), sync="nothing")

    @property
    def _approval(self) -> Path:
        return self.folder / "approval.json"

    @property
    def _probe(self) -> Path:
        return self.folder / "probe.json"

    def _write_probe(self, *, battery: int) -> None:
        state = {"charging": self._charging, "battery_percent": battery}
        write_atomically(self._probe, json.dumps(state).encode(), sync="nothing")
