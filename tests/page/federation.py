"""A real aggregator at work on a real broker, with devices that make up their updates and an evaluator that makes up
its figures. Driven by the test's own thread: what it says is done when its methods return.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_history, read_totals
from aggregator.model_line import announcement
from aggregator.service import Service, subscriptions
from tests.aggregator.synthetic import TASK, SyntheticDevice, begin
from wire_contract.codec import encode
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Delivery
from wire_contract.main_metric import ACCURACY
from wire_contract.messages import Evaluation, Manifest, Presence
from wire_contract.program.clock import Clock
from wire_contract.topics import DEFAULT_ROOT, build

ROOT = DEFAULT_ROOT
PATIENCE_SECONDS = 60.0
"""Only a failing test waits so long."""


class Federation:
    """Task `toy`: two updates make a version."""

    def __init__(self, ledger: Path, link: MqttLink, devices: MqttLink, clock: Clock) -> None:
        self.path = ledger
        self.clock = clock
        self.main = ACCURACY
        """What evaluators measure from now on."""
        self._ledger = Ledger(ledger, task=TASK)
        self.line = begin(self._ledger)
        self._devices = devices
        self._link = link
        self._made: dict[str, SyntheticDevice] = {}
        self.service = Service(
            self.line,
            self._ledger,
            link,
            root=ROOT,
            totals=read_totals(ledger),
            history=read_history(ledger, now=clock.unix()),
            clock=clock,
            pause=lambda _seconds: None,
            is_evaluator=lambda name: name.endswith("judge"),
        )

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self._devices.publish(topic, payload, retain=retain).wait(PATIENCE_SECONDS)

    def send(self, device: str, *, base: tuple[int, bytes] | None = None) -> None:
        """One update; merged when this returns."""
        made = self._made.setdefault(device, SyntheticDevice(device))
        changes = {} if base is None else {"base_version": base[0], "base_digest": base[1]}
        before = self.answered
        self.publish(made.topic, made.payload(self.line, **changes))
        self.until(lambda: self.answered > before)

    @property
    def answered(self) -> int:
        return sum(self.service._reporter.counters.totals().values())

    @property
    def base(self) -> tuple[int, bytes]:
        return self.line.version, self.line.release.published.digest

    def evaluate(self, value: float, *, judge: str = "judge") -> None:
        version, digest = self.base
        told = Evaluation(
            task=TASK,
            device=judge,
            version=version,
            digest=digest,
            samples=9,
            metrics={"loss": 1.0, self.main.name: value},
            declared=self.main,
        )
        self.publish(build("evaluation", root=ROOT, task=TASK, device=judge), encode(told))
        self.until(lambda: (version, judge) in self.service._reporter.tally._evaluations)

    def present(self, device: str, *, online: bool) -> None:
        status = Presence(status="online" if online else "offline")
        self.publish(build("presence", root=ROOT, task=TASK, device=device), encode(status), retain=True)

    def manifest(self) -> Manifest:
        """As the aggregator announces its newest version."""
        return announcement(self.line.settings, self.line.release).manifest

    def teach(self, values: Sequence[float], devices: Sequence[str] = ("watch-1", "watch-2")) -> None:
        """A version for each value of the main metric."""
        for value in values:
            for device in devices:
                self.send(device)
            self.evaluate(value)
        self.tell()

    def tell(self) -> None:
        """The status with everything so far goes out now, whenever it would be due; the broker has it then."""
        self.service._reporter.status_publisher.next_at = 0.0
        self.service.step()
        self.until(lambda: self._has_told_all)

    @property
    def _has_told_all(self) -> bool:
        """The broker has acknowledged whatever the aggregator published."""
        outgoing = self._link._state.outgoing
        with outgoing._changed:
            return not outgoing._waiting and not outgoing._in_flight

    def until(self, is_so: Callable[[], bool]) -> None:
        """Works until it is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert time.monotonic() < deadline, f"not so within {PATIENCE_SECONDS:g} s"
            self.service.step()

    def await_greeting(self) -> None:
        """Until a status of the aggregator has come over the broker: its subscriptions were taken before that."""

        def came() -> bool:
            events = self._devices.receive(count=100, timeout_seconds=0)
            deliveries = [event for event in events if isinstance(event, Delivery)]
            for delivery in deliveries:
                self._devices.ack(delivery)
            return bool(deliveries)

        came()  # what is of an earlier connection
        self.service.step()
        self.until(came)

    def close(self) -> None:
        self._ledger.close()


@contextmanager
def federation(
    url: str, ledger: Path, clock: Clock, *, username: str | None = None, password: str | None = None
) -> Iterator[Federation]:
    """One that is connected."""

    def link(name: str, topics: tuple[str, ...] = ()) -> MqttLink:
        return MqttLink(
            MqttSettings.from_url(
                url,
                client_id=name,
                username=username,
                password=password,
                protocol="3.1.1",
                subscriptions=topics,
                close_seconds_max=2.0,
            )
        )

    devices = link("devices", (build("aggregator", root=ROOT, task=TASK, shard=0),))
    own = link("aggregator", subscriptions(root=ROOT, task=TASK, shard=0))
    made = Federation(ledger, own, devices, clock)
    try:
        made.await_greeting()
        yield made
    finally:
        made.close()
        own.close()
        devices.close()
