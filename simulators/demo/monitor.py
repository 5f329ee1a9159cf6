"""What goes on in every stage of the demo: time, looking whether everybody is alive, and showing how things stand."""

import time
from collections.abc import Callable

from simulators.audit.observer import Observer
from simulators.demo.devices import Device
from simulators.demo.take_snapshot import scene_of
from simulators.processes.processes import ProcessError, Processes
from simulators.reporting.baselines import Baselines
from simulators.reporting.device_timeline import EventLines, State
from simulators.reporting.live_view import View
from simulators.reporting.results import TrafficSample

TICK_SECONDS = 0.1
TRAFFIC_SECONDS = 0.5
"""Between two readings of the devices' lines."""
TOLD_STATES: dict[State, str] = {
    "offline": "has lost its connection",
    "killed": "is killed (SIGKILL)",
    "held": "may not upload until it charges",
}


class Clockwork:
    """Turns while stages wait. What there is to look at is hung into it as it comes to be."""

    def __init__(self, view: View, processes: Processes, *, began: float) -> None:
        """`began`: when the run did, on the monotonic clock."""
        self.devices: list[Device] = []
        self.observer: Observer | None = None
        self.baselines = Baselines(epochs=0)
        self.baseline_lines: list[EventLines] = []
        self.traffic: list[TrafficSample] = []
        self.versions_planned: int | None = None
        """None until the pace of this machine has been measured."""
        self.page_url = ""
        """Empty while there is none."""
        self.seconds_by_stage: dict[str, float] = {}
        self._view = view
        self._processes = processes
        self._began = self._stage_began = began
        self._stage = "data and broker"
        self._told: dict[str, State] = {}

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    @property
    def version(self) -> int:
        """The newest that was published; -1 before the first."""
        return self.observer.sightings.version if self.observer is not None else -1

    def begin(self, stage: str) -> None:
        """Ends the stage before."""
        now = time.monotonic()
        self.seconds_by_stage[self._stage] = now - self._stage_began
        self._stage, self._stage_began = stage, now
        self.tick()

    def until(self, is_over: Callable[[], bool], *, seconds_max: float, what: str) -> None:
        """Lets time go by.

        Raises:
            ProcessError: it is not over in time, or a program failed.
        """
        if not self.over_within(is_over, seconds_max=seconds_max):
            raise ProcessError(f"{what} took over {seconds_max:g} s; the logs are in {self._processes.folder}")

    def over_within(self, is_over: Callable[[], bool], *, seconds_max: float) -> bool:
        """Lets time go by. Whether it is over in time."""
        deadline = time.monotonic() + seconds_max
        while not is_over():
            if time.monotonic() > deadline:
                return False
            self.tick()
            time.sleep(TICK_SECONDS)
        return True

    def tick(self) -> None:
        """Sees, checks, shows.

        Raises:
            ProcessError: a program failed.
        """
        for device in self.devices:
            device.look()
            self._tell_of(device)
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
            lines = [device.line for device in self.devices]
            up, down = sum(line.bytes_up for line in lines), sum(line.bytes_down for line in lines)
            self.traffic.append(TrafficSample(now, up, down))

    def tell(self, text: str) -> None:
        self._view.news(self.seconds, text)

    def _show(self) -> None:
        def scene_with(observer: Observer | None) -> None:
            self._view.show(
                scene_of(
                    self._stage,
                    seconds=self.seconds,
                    versions_planned=self.versions_planned,
                    sightings=None if observer is None else observer.sightings,
                    devices=self.devices,
                    baselines=self.baselines,
                    page_url=self.page_url,
                )
            )

        if self.observer is None:
            scene_with(None)
        else:
            with self.observer.lock:
                scene_with(self.observer)

    def _tell_of(self, device: Device) -> None:
        state, before = device.story.state, self._told.get(device.name)
        if state in TOLD_STATES and before != state:
            self._told[device.name] = state
            self.tell(f"{device.name} {TOLD_STATES[state]}")
        elif before is not None and state not in TOLD_STATES and device.story.is_connected:
            del self._told[device.name]
            self.tell(f"{device.name} is back")
