"""Runs in every stage of the demo: reads events, checks that all programs are alive, updates the view, keeps time."""

import time
from collections.abc import Callable

from simulators.audit.observer import Observer
from simulators.demo.devices import Device
from simulators.demo.plan import Gate
from simulators.demo.take_snapshot import take_snapshot
from simulators.processes.processes import ProcessError, Processes
from simulators.reporting.baselines import BaselineResults
from simulators.reporting.device_timeline import EventReader, State
from simulators.reporting.live_view import View
from simulators.reporting.nouns import nouns_of
from simulators.reporting.results import TrafficSample

TICK_SECONDS = 0.1
"""Chosen: the view follows without a visible delay, and the devices keep the processor."""
TRAFFIC_SECONDS = 0.5
"""Between two readings of the proxies' byte counters."""
ANNOUNCED_STATES: dict[State, str] = {
    "offline": "lost its connection",
    "killed": "was killed (SIGKILL)",
    "held": "may not upload",
}
_GATES: dict[Gate | None, str] = {"charging": "until it is charging", "approval": "until it has a compliance approval"}


class Monitor:
    """Ticks while a stage waits. The stages attach devices, observer and baselines as they are started."""

    def __init__(self, view: View, processes: Processes, *, began: float) -> None:
        """`began`: start of the run, monotonic clock."""
        self.devices: list[Device] = []
        self.observer: Observer | None = None
        self.baselines = BaselineResults(epochs=0)
        self.baseline_lines: list[EventReader] = []
        self.traffic: list[TrafficSample] = []
        self.versions_planned: int | None = None
        """None until the machine's training speed has been measured."""
        self.nouns = nouns_of("")
        self.page_url = ""
        """Empty while no page is served."""
        self.seconds_by_stage: dict[str, float] = {}
        self._view = view
        self._processes = processes
        self._began = self._stage_began = began
        self._stage = "data and broker"
        self._announced: dict[str, State] = {}

    @property
    def seconds(self) -> float:
        """Since the start of the run."""
        return time.monotonic() - self._began

    @property
    def version(self) -> int:
        """The newest published version; -1 before the first."""
        return self.observer.observations.version if self.observer is not None else -1

    def begin(self, stage: str) -> None:
        """Begins a stage, and ends the previous one."""
        now = time.monotonic()
        self.seconds_by_stage[self._stage] = now - self._stage_began
        self._stage, self._stage_began = stage, now
        self.tick()

    def wait_for(self, is_over: Callable[[], bool], *, seconds_max: float, what: str) -> None:
        """Ticks until `is_over`.

        Raises:
            ProcessError: it took longer than `seconds_max`, or a program failed.
        """
        if not self.finishes_within(is_over, seconds_max=seconds_max):
            raise ProcessError(f"{what} took more than {seconds_max:g} s; see the logs in {self._processes.folder}")

    def finishes_within(self, is_over: Callable[[], bool], *, seconds_max: float) -> bool:
        """Ticks until `is_over`, at most for `seconds_max`; returns whether it was over in time."""
        deadline = time.monotonic() + seconds_max
        while not is_over():
            if time.monotonic() > deadline:
                return False
            self.tick()
            time.sleep(TICK_SECONDS)
        return True

    def tick(self) -> None:
        """Reads new events, checks all programs, updates the view.

        Raises:
            ProcessError: a program or the observer failed.
        """
        for device in self.devices:
            device.look()
            self._announce_changes(device)
        self._read_traffic()
        for lines in self.baseline_lines:
            for event in lines.new():
                self.baselines.take(dict(event))
        self._processes.check()
        if self.observer is not None and self.observer.failure is not None:
            raise ProcessError(f"the observer: {self.observer.failure}")
        self._show()

    def _read_traffic(self) -> None:
        now = time.time()
        if self.devices and (not self.traffic or now >= self.traffic[-1].at + TRAFFIC_SECONDS):
            proxies = [device.proxy for device in self.devices]
            up, down = sum(proxy.bytes_up for proxy in proxies), sum(proxy.bytes_down for proxy in proxies)
            self.traffic.append(TrafficSample(now, up, down))

    def announce(self, text: str) -> None:
        self._view.news(self.seconds, text)

    def _show(self) -> None:
        def show_with(observer: Observer | None) -> None:
            self._view.show(
                take_snapshot(
                    self._stage,
                    seconds=self.seconds,
                    versions_planned=self.versions_planned,
                    observations=None if observer is None else observer.observations,
                    devices=self.devices,
                    baselines=self.baselines,
                    page_url=self.page_url,
                    nouns=self.nouns,
                )
            )

        if self.observer is None:
            show_with(None)
        else:
            with self.observer.lock:
                show_with(self.observer)

    def _announce_changes(self, device: Device) -> None:
        state, before = device.timeline.state, self._announced.get(device.name)
        if state in ANNOUNCED_STATES and before != state:
            self._announced[device.name] = state
            until = f" {_GATES[device.profile.gate]}" if state == "held" and device.profile.gate in _GATES else ""
            self.announce(f"{device.name} {ANNOUNCED_STATES[state]}{until}")
        elif before is not None and state not in ANNOUNCED_STATES and device.timeline.is_connected:
            del self._announced[device.name]
            self.announce(f"{device.name} is back")
