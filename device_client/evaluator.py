"""A device that never uploads: it measures each new version on held-out data, and tells everybody.

It keeps nothing on disk. After a restart it measures the newest version again, which is the same evaluation.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

from device_client.downlink.model_feed import ModelFeed
from device_client.downlink.model_trust import ModelTrust
from device_client.events import Emit
from device_client.presence import offline, online, presence_topic
from wire_contract import codec
from wire_contract.errors import ContractError, LayoutError, LinkError
from wire_contract.limits import CONTROL_LIMITS
from wire_contract.link.protocol import Link
from wire_contract.messages import Evaluation
from wire_contract.program.health import Heartbeat, no_heartbeat
from wire_contract.publication.manifest import PublishedVersion
from wire_contract.topics import build

CAPABILITY = {"role": "evaluator"}
TURN_SECONDS = 0.5
"""Longest wait for an event: so late at most it is seen that the evaluator should stop."""
PUBLISH_SECONDS_MAX = 10.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a model is worth."""

    samples: int
    metrics: dict[str, float]


Measure = Callable[[PublishedVersion], Measured]


class Evaluator:
    """Measures, prints and publishes."""

    def __init__(
        self,
        *,
        task: str,
        device: str,
        root: str,
        link: Link,
        measure: Measure,
        emit: Emit,
        firmware: str = "",
        trust: ModelTrust | None = None,
        heartbeat: Heartbeat = no_heartbeat,
    ) -> None:
        self._heartbeat = heartbeat
        self._task, self._device, self._root = task, device, root
        self._firmware = firmware
        self._link = link
        self._measure = measure
        self._emit = emit
        self._feed = ModelFeed(link, task=task, root=root, emit=emit, greet=self._greet, trust=trust)
        self._stopping = False

    def stop(self) -> None:
        """From any thread or a signal handler: it takes no lock."""
        self._stopping = True

    def run(self, *, once: bool) -> None:
        """Until `stop`, or until the first version is measured.

        Raises:
            UsageError: the broker refused us from the first.
            LinkError: the link has died.
            LayoutError: (once) the model is not of this task's student.
        """
        try:
            while not self._stopping and not (self.turn(TURN_SECONDS, once=once) and once):
                pass
        finally:
            self._goodbye()

    def turn(self, timeout_seconds: float, *, once: bool = False) -> bool:
        """Takes what has arrived, and measures the newest of it. Whether there was one to measure."""
        trouble = self._feed.trouble
        self._heartbeat(trouble="" if trouble is None else f"no connection to the broker: {trouble}")
        arrival = self._feed.newest(timeout_seconds=timeout_seconds)
        if arrival is None:
            return False
        self._emit("model", version=arrival.published.version, bytes=arrival.manifest.size_bytes)
        try:
            measured = self._measure(arrival.published)
        except LayoutError as error:
            if once:
                raise
            self._emit("warning", message=f"model {arrival.published.version}: {error}")
            return False
        self._tell(arrival.published, measured, wait=once)
        return True

    def _tell(self, published: PublishedVersion, measured: Measured, *, wait: bool) -> None:
        metrics = publishable(measured.metrics)
        self._emit("evaluated", version=published.version, metrics=metrics)
        evaluation = Evaluation(
            task=self._task,
            device=self._device,
            version=published.version,
            digest=published.digest,
            samples=measured.samples,
            metrics=metrics,
        )
        topic = build("evaluation", root=self._root, task=self._task, device=self._device)
        try:
            publication = self._link.publish(topic, codec.encode(evaluation))
        except ContractError as error:
            self._emit("warning", message=f"evaluation of model {published.version} not published: {error}")
            return
        if wait and not publication.wait(PUBLISH_SECONDS_MAX):
            self._emit("warning", message=f"evaluation of model {published.version}: the broker did not take it")

    def _greet(self) -> None:
        self._publish_presence(online(self._firmware, CAPABILITY))

    def _goodbye(self) -> None:
        """A link that is closed in order does not call on the will."""
        if self._feed.trouble is None:  # else closing would wait in vain for it to be sent
            with contextlib.suppress(LinkError):  # the link has died; then the broker publishes the will
                self._publish_presence(offline(self._firmware))

    def _publish_presence(self, payload: bytes) -> None:
        self._link.publish(presence_topic(self._root, self._task, self._device), payload, retain=True)


def publishable(metrics: dict[str, float]) -> dict[str, float]:
    """What the contract takes: finite numbers, and of very many classes the first ones."""
    finite = [(name, value) for name, value in metrics.items() if math.isfinite(value)]
    return dict(finite[: CONTROL_LIMITS.map_items])
