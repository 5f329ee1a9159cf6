"""The evaluator: a device that never uploads, measures each new version on held-out data and publishes the metrics.

It stores nothing. After a restart it measures the newest version again, and publishes the same evaluation.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

from device_client.downlink.line_check import OwnLine
from device_client.downlink.lines import Follow
from device_client.downlink.model_feed import ModelFeed
from device_client.downlink.model_trust import ModelTrust
from device_client.events import Emit
from device_client.presence import offline, online, presence_topic
from wire_contract import codec
from wire_contract.errors import ContractError, LayoutError, LinkError
from wire_contract.limits import CONTROL_LIMITS
from wire_contract.link.protocol import Link
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.messages import Evaluation
from wire_contract.program.health import Heartbeat, no_heartbeat
from wire_contract.publication.manifest import PublishedVersion
from wire_contract.topics import build

CAPABILITY = {"role": "evaluator"}
TURN_SECONDS = 0.5
"""Longest wait for an event; a stop request is noticed at most this late."""
PUBLISH_SECONDS_MAX = 10.0
"""With --once: how long to wait until the broker has acknowledged the evaluation."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The metrics of one version."""

    samples: int
    metrics: dict[str, float]


class MeasureError(ContractError):
    """A model cannot be measured, for example because its main metric is not finite. The message is one line."""


Measure = Callable[[PublishedVersion], Measured]
"""Raises `LayoutError` or `MeasureError`."""


class Evaluator:
    """Measures each new version, and prints and publishes the metrics."""

    def __init__(
        self,
        *,
        task: str,
        device: str,
        root: str,
        link: Link,
        measure: Measure,
        emit: Emit,
        main: MainMetric = ACCURACY,
        firmware: str = "",
        trust: ModelTrust | None = None,
        follow: Follow = lambda _: None,
        heartbeat: Heartbeat = no_heartbeat,
        own_line: OwnLine | None = None,
    ) -> None:
        """`main` says which of the metrics is the main one, and in which direction it is good."""
        self._main = main
        self._heartbeat = heartbeat
        self._task, self._device, self._root = task, device, root
        self._firmware = firmware
        self._link = link
        self._measure = measure
        self._emit = emit
        self._feed = ModelFeed(
            link,
            task=task,
            root=root,
            emit=emit,
            greet=self._greet,
            trust=trust,
            follow=follow,
            own_line=own_line,
        )
        self._stopping = False

    def stop(self) -> None:
        """Makes `run` return soon. It takes no lock, so signal handlers and other threads may call it."""
        self._stopping = True

    def run(self, *, once: bool) -> str | None:
        """Runs until `stop`, or with `once` until the first version is measured, or until it has to go on to the next
        line, which it returns.

        Raises:
            UsageError: the broker refused the first connection.
            LinkError: the link has died.
            LineMismatch: the first model is of a line with other labels or fixed buffers.
            LayoutError: (with `once`) the model does not fit this task's student.
            MeasureError: (with `once`) it cannot be measured.
        """
        try:
            while not self._stopping and not (self.turn(TURN_SECONDS, once=once) and once):
                if self._feed.next_line is not None:
                    return self._feed.next_line
        finally:
            self._goodbye()
        return None

    def turn(self, timeout_seconds: float, *, once: bool = False) -> bool:
        """Measures the newest model that has arrived. Returns whether there was one."""
        trouble = self._feed.trouble
        self._heartbeat(trouble="" if trouble is None else f"no connection to the broker: {trouble}")
        arrival = self._feed.newest(timeout_seconds=timeout_seconds)
        if arrival is None:
            return False
        self._emit("model", version=arrival.published.version, bytes=arrival.manifest.size_bytes)
        try:
            measured = self._measure(arrival.published)
        except (LayoutError, MeasureError) as error:
            if once:
                raise
            self._emit("warning", message=f"model {arrival.published.version}: {error}")
            return False
        self._report(arrival.published, measured, wait=once)
        return True

    def _report(self, published: PublishedVersion, measured: Measured, *, wait: bool) -> None:
        metrics = publishable(measured.metrics, main=self._main)
        self._emit(
            "evaluated",
            version=published.version,
            metrics=metrics,
            main_metric=self._main.name,
            higher_is_better=self._main.higher_is_better,
        )
        evaluation = Evaluation(
            task=self._task,
            device=self._device,
            version=published.version,
            digest=published.digest,
            samples=measured.samples,
            metrics=metrics,
            declared=self._main,
        )
        topic = build("evaluation", root=self._root, task=self._task, device=self._device)
        try:
            publication = self._link.publish(topic, codec.encode(evaluation))
        except ContractError as error:
            self._emit("warning", message=f"evaluation of model {published.version} was not published: {error}")
            return
        if wait and not publication.wait(PUBLISH_SECONDS_MAX):
            self._emit("warning", message=f"evaluation of model {published.version}: the broker did not acknowledge it")

    def _greet(self) -> None:
        self._publish_presence(online(self._firmware, CAPABILITY))

    def _goodbye(self) -> None:
        """Publishes the offline presence itself, because the broker does not send the will of a link that is closed
        cleanly.
        """
        if self._feed.trouble is None:  # without a connection, closing would wait in vain for it to be sent
            with contextlib.suppress(LinkError):  # the link has died, so the broker publishes the will
                self._publish_presence(offline(self._firmware))

    def _publish_presence(self, payload: bytes) -> None:
        self._link.publish(presence_topic(self._root, self._task, self._device), payload, retain=True)


def publishable(metrics: dict[str, float], *, main: MainMetric = ACCURACY) -> dict[str, float]:
    """The metrics that the wire contract accepts: finite ones, and at most as many as a map may have items. The main
    one is among them.
    """
    finite = [name for name, value in metrics.items() if math.isfinite(value)]
    kept = set(sorted(finite, key=lambda name: name != main.name)[: CONTROL_LIMITS.map_items])
    return {name: metrics[name] for name in finite if name in kept}
