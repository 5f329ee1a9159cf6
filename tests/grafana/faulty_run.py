"""A real aggregator on a real mosquitto, with devices that come, go and err and two cohorts: all that panels can show.

In one process, on a clock that jumps, so that some seconds of work look like a quarter of an hour.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_totals
from aggregator.service import Service, subscriptions
from aggregator.telemetry import broker_watch, collecting
from aggregator.telemetry.broker_watch import BrokerWatch, Sightings
from aggregator.telemetry.collecting import Clocks, Telemetry
from aggregator.telemetry.lines import read_line
from aggregator.telemetry.recording import Recording
from aggregator.telemetry.spool import Spool, read_spool
from tests.aggregator.synthetic import ROOT, SETTINGS, TASK, SyntheticDevice, begin
from tests.broker.mosquitto import Mosquitto
from tests.waiting import PATIENCE_SECONDS, eventually
from wire_contract.codec import encode
from wire_contract.limits import MIB
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.link.protocol import Delivery
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.messages import Evaluation, Presence
from wire_contract.program.clock import Clock
from wire_contract.topics import build

ROUNDS = 12
ROUND_SECONDS = 75.0
STATUS = build("aggregator", root=ROOT, task=TASK, shard=0)
FIGURES = frozenset(broker_watch.SYS_FIELDS.values()) - {"heap_bytes"}
"""Of every mosquitto; the last one depends on how it was built."""
DEVICES = ("watch-1", "watch-2", "watch-3")
COHORTS = ("young", "old", "error", "score")
ANOTHER = {
    "error": MainMetric("mae", higher_is_better=False),
    "score": MainMetric("r2", higher_is_better=True),
}
"""The main metric of the cohorts that are not measured by accuracy."""


@dataclass
class JumpingClock:
    """Goes on by itself, and jumps when told to. The moments of points only jump: each round is at one of them."""

    ahead_seconds: float = 0.0
    began: float = field(default_factory=lambda: time.time() - ROUNDS * ROUND_SECONDS)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_seconds

    def unix(self) -> float:
        return self.began + self.ahead_seconds


@contextmanager
def _service(folder: Path, broker: Mosquitto, clock: JumpingClock) -> Iterator[Service]:
    spool = Spool(folder / "spool", bytes_max=MIB)
    clocks = Clocks(unix_ns=lambda: int(clock.unix() * 1e9), monotonic=clock.monotonic)
    with ExitStack() as at_the_end:
        ledger = at_the_end.enter_context(Ledger(folder / "ledger.sqlite3", task=TASK))
        telemetry = Telemetry(spool, task=TASK, shard=0, flush_seconds=0.05, clocks=clocks)
        at_the_end.enter_context(closing(telemetry))
        own = _link(broker, "aggregator", *subscriptions(root=ROOT, task=TASK, shard=0))
        link = at_the_end.enter_context(closing(own))
        watch = BrokerWatch(
            _link(broker, "watch"),
            Sightings(root=ROOT, shard=0, shards=1),
            telemetry.record,
            filters=broker_watch.filters(root=ROOT, task=TASK),
            monotonic=clock.monotonic,
        )
        at_the_end.enter_context(closing(watch))
        yield Service(
            begin(ledger, replace(SETTINGS, version_seconds=1.0)),
            ledger,
            link,
            root=ROOT,
            totals=read_totals(folder / "ledger.sqlite3"),
            clock=Clock(monotonic=clock.monotonic, unix=clock.unix),
            pause=time.sleep,
            recording=Recording(telemetry.record, queue_depth=lambda: link.waiting, traffic=lambda: link.traffic),
        )


def faulty_run(folder: Path, broker: Mosquitto) -> list[str]:
    """The lines of its telemetry."""
    clock = JumpingClock()
    devices = [SyntheticDevice(name) for name in DEVICES]
    receipts = tuple(device.receipts for device in devices)
    with ExitStack() as at_the_end:
        patch = at_the_end.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(collecting, "CLOSE_SECONDS_MAX", PATIENCE_SECONDS)  # a busy machine costs no points here
        patch.setattr(broker_watch, "SYS_SECONDS", 0.0)
        service = at_the_end.enter_context(_service(folder, broker, clock))
        link = at_the_end.enter_context(closing(_link(broker, "devices", STATUS, *receipts)))
        _take(service, link, {STATUS}, 1)  # the aggregator's subscriptions were taken before that
        for number in range(ROUNDS):
            _take(service, link, receipts, _work(service, link, devices, number))
            clock.ahead_seconds += ROUND_SECONDS
            service.step()
        # The watch listens in a thread of its own: what it hears is there a little later.
        eventually(lambda: _has_been_watched(folder / "spool"))
    return list(read_spool(folder / "spool"))


def _take(service: Service, link: MqttLink, topics: Collection[str], count: int) -> None:
    """Works until so many messages of these have come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while count > 0:
        assert time.monotonic() < deadline, f"{count} messages are missing"
        service.step()
        for event in link.receive(count=20, timeout_seconds=0.01):
            if isinstance(event, Delivery):
                count -= event.topic in topics
                link.ack(event)


def _has_been_watched(spool: Path) -> bool:
    """Every device was seen, and all figures of the broker were told."""
    lines = [line for line in map(read_line, read_spool(spool)) if line is not None]
    devices = {line.fields["device"] for line in lines if line.measurement == "fedkd_presence"}
    figures = {name for line in lines if line.measurement == "fedkd_broker" for name in line.fields}
    own = {line.measurement for line in lines}
    return devices >= set(DEVICES) and figures >= FIGURES and own >= {"fedkd_fleet", "fedkd_telemetry"}


def _work(service: Service, link: MqttLink, devices: list[SyntheticDevice], number: int) -> int:
    """One round's messages; how many receipts they bring."""
    line = service.line
    for device in devices:
        status = "offline" if (number + len(device.name)) % 4 == 0 else "online"
        presence = Presence(status=status, firmware="synthetic 1", capability={"battery_percent": f"{90 - number}"})  # type: ignore[arg-type]
        link.publish(build("presence", root=ROOT, task=TASK, device=device.name), encode(presence), retain=True)
    # First, so that who has the receipts of the updates knows that these were taken, too.
    for place, cohort in enumerate(COHORTS):
        name = f"evaluator.{cohort}"
        accuracy = 0.4 + number / 30 - place / 10
        metrics = {"accuracy": accuracy, "macro_f1": accuracy, "loss": 1.0 - accuracy, "recall_STEP": accuracy}
        main = ANOTHER.get(cohort, ACCURACY)
        if cohort in ANOTHER:
            metrics = {main.name: 2.0 - accuracy if cohort == "error" else accuracy, "loss": 1.0}
        evaluation = Evaluation(
            task=TASK,
            device=name,
            version=line.version,
            digest=line.release.published.digest,
            samples=100,
            metrics=metrics,
            declared=main,
        )
        link.publish(build("evaluation", root=ROOT, task=TASK, device=name), encode(evaluation))
    update = devices[0].payload(line, metrics={"loss": 2.0 / (1 + number), "accuracy": 0.5 + number / 30})
    link.publish(devices[0].topic, update)
    link.publish(devices[0].topic, update)  # a duplicate
    link.publish(devices[1].topic, devices[1].payload(line, metrics={"loss": 1.0, "mae": 2.0 - number / 30}))
    link.publish(devices[2].topic, b"nothing that can be read")
    return 4


def _link(broker: Mosquitto, name: str, *topics: str) -> MqttLink:
    return MqttLink(MqttSettings(host="127.0.0.1", port=broker.port, client_id=name, subscriptions=topics))
