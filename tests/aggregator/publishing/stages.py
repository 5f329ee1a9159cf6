"""Aggregators that look at the broker before they publish, and somebody who hears what they publish."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aggregator.publishing.inspection import DEAF_SECONDS
from tests.aggregator.stage import MODEL
from tests.aggregator.stage import Stage as PlainStage
from tests.aggregator.synthetic import CHUNKED, ROOT, SETTINGS, TASK
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.link.protocol import Delivery, QoS
from wire_contract.topics import build, parse

LINE = replace(
    SETTINGS, model_encoding="float16", delta_encoding=CompressionTarget(bytes_max=1_500), snapshot_versions=4
)


OWN = {"model", "chunk", "delta"}


class Stage(PlainStage):
    """With deltas and chunks, and somebody who hears what is published on the model topics."""

    def __init__(self, path: Path, broker: MemoryBroker | None = None, **link: int) -> None:
        super().__init__(path, LINE, CHUNKED, broker=broker, **link)
        filters = (MODEL, f"{MODEL}/+/+", f"{ROOT}/{TASK}/delta/+")
        self.ear = MemoryLink(self.broker, f"ear of {self.client_id}", subscriptions=filters, receive_maximum=10_000)
        self.heard()

    def heard(self) -> list[str]:
        """Topics of what was published since it was asked last, without probes."""
        events = self.ear.receive(count=10_000, timeout_seconds=0)
        found = [event for event in events if isinstance(event, Delivery)]
        for one in found:
            self.ear.ack(one)
        return [one.topic for one in found if not one.retained and one.topic != build("delta", **PROBE)]

    def models(self) -> dict[str, bytes]:
        """What is retained on the model topics."""
        return {topic: it for topic, it in self.broker.retained.items() if parse(topic, root=ROOT).kind in OWN}

    def vandal(self, topic: str, payload: bytes = b"") -> None:
        """Somebody else publishes, or deletes."""
        self.mailbox.publish(topic, payload, retain=True)

    def copy(self, path: Path) -> None:
        """Of the ledger, as it is now."""
        self.ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(self.path, path)


PROBE = {"root": ROOT, "task": TASK, "version": 0}


class Other(Stage):
    """A second aggregator, under a name of its own."""

    client_id = "aggregator-1"


Make = Callable[..., Stage]


class DeafLink(MemoryLink):
    """What it subscribes to later does not come, and nobody says so: as mosquitto does with an older access list."""

    def subscribe(self, topic_filter: str, *, qos: QoS = 1) -> None:
        pass


class DeafStage(Stage):
    link_type = DeafLink


def settle(stage: Stage) -> None:
    stage.step()
    stage.now += DEAF_SECONDS
    stage.step(2)
