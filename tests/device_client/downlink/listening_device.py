"""A device that only listens, and notes what it subscribed to and what that cost."""

from typing import TYPE_CHECKING

from device_client.downlink.receiver import ModelReceiver
from tests.device_client.downlink.downlink_line import shelves
from tests.device_client.stage import ROOT, TASK
from wire_contract import topics
from wire_contract.link.protocol import Delivery, Link, QoS

if TYPE_CHECKING:
    from device_client.downlink.outcome import Outcome

LINE = shelves(40)


MODEL = topics.build("model", root=ROOT, task=TASK)


MODELS = topics.subscription("model", root=ROOT, task=TASK)


class Watched:
    """A device that only listens; it notes what it subscribed to and what that cost."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.asked: list[str] = []
        self.received: dict[str, int] = {}
        subscribe = link.subscribe

        def noting(topic_filter: str, *, qos: QoS = 1) -> None:
            self.asked.append(topic_filter.removeprefix(f"{ROOT}/{TASK}/"))
            subscribe(topic_filter, qos=qos)

        link.subscribe = noting  # type: ignore[method-assign]
        self.now = 0.0
        self.receiver = ModelReceiver(
            link, root=ROOT, task=TASK, monotonic=lambda: self.now, uniform=lambda low, _: low
        )
        self.outcomes: list[Outcome] = []

    def listen(self, timeout_seconds: float = 0.0) -> None:
        """Until nothing more comes."""
        while events := self.link.receive(count=100, timeout_seconds=timeout_seconds):
            for event in events:
                if isinstance(event, Delivery):
                    topic = topics.parse(event.topic, root=ROOT)
                    self.received[topic.kind] = self.received.get(topic.kind, 0) + len(event.payload)
                    self.outcomes.append(self.receiver.take(topic, event.payload))
                    self.link.ack(event)

    @property
    def version(self) -> int | None:
        held = self.receiver.held
        return None if held is None else held.published.version

    def forget(self) -> None:
        self.asked.clear()
        self.received.clear()
        self.outcomes.clear()
