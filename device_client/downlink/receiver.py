"""The receiving side of a device: passes messages to the inbox, and subscribes to what the inbox wants."""

import contextlib
import random
import time
from collections.abc import Callable

from device_client.downlink.download_plan import Wanted
from device_client.downlink.inbox import Inbox
from device_client.downlink.lines import Follow, ended
from device_client.downlink.model_trust import ModelTrust, refusal
from device_client.downlink.outcome import NewModel, Outcome, Rejected
from device_client.downlink.resubscription import ResubscriptionTimer
from wire_contract.errors import DecodeError, LinkError
from wire_contract.link.protocol import Link
from wire_contract.messages import Manifest
from wire_contract.topics import ParsedTopic, build, subscription, topic_filter


class ModelReceiver:
    """Subscribes to deltas and chunks only while they are wanted, because a broker sends them to every subscriber."""

    def __init__(
        self,
        link: Link,
        *,
        root: str,
        task: str,
        trust: ModelTrust | None = None,
        follow: Follow = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`link` is subscribed to the model topic. `trust` decides which manifests are accepted; None: all. `follow`
        decides when to go on to the next line. `uniform` draws a number evenly between two.
        """
        self._link = link
        self._root = root
        self._task = task
        self._inbox = Inbox(task)
        self._trust = trust
        self._follow = follow
        self.next_line: str | None = None
        """The line to go on to. Once it is known, models of this line are not taken any more."""
        self._subscribed: dict[str, None] = {}
        self._monotonic = monotonic
        self._resubscription = ResubscriptionTimer(monotonic(), uniform=uniform)

    @property
    def held(self) -> NewModel | None:
        """The newest complete model."""
        return self._inbox.held

    @property
    def is_behind(self) -> bool:
        """Whether a newer version has been announced than is held."""
        return self._inbox.is_behind

    @property
    def is_disowned(self) -> bool:
        """Whether the aggregator does not know the held model."""
        return self._inbox.is_disowned

    @property
    def announcement(self) -> Manifest | None:
        """The manifest that arrived last."""
        return self._inbox.announcement

    @property
    def ended(self) -> tuple[str, ...]:
        """Why nothing is to be trained for this line; empty: it is open."""
        newest = self._inbox.announcement
        return () if newest is None else ended(newest)

    @property
    def lacks(self) -> str:
        """What is missing for a model to be complete, in one line."""
        target = self._inbox.target
        topic = build("model", root=self._root, task=self._task)
        if target is None:
            return f"no usable manifest is retained on {topic}"
        wanted = self._inbox.wanted
        parts = [f"delta {one}" for one in wanted.deltas]
        parts += [f"chunks of version {wanted.snapshot}"] if wanted.snapshot is not None else []
        missing = " and ".join(parts) or "its parts"
        return f"version {target.version} is announced on {topic}, but {missing} did not arrive"

    def disown(self, version: int, digest: bytes) -> Outcome:
        """The aggregator does not know this version with these weights; see `Inbox.disown`."""
        outcome = self._inbox.disown(version, digest)
        self._subscribe()
        return outcome

    def restore(self, manifest: Manifest) -> Outcome:
        """A cached manifest with its model inline. The outbox knows which keys it was checked with."""
        return self._inbox.announced(manifest)

    def resubscribe(self) -> None:
        """Subscribes to the model again if no manifest has arrived for long; called in every turn."""
        if self._resubscription.is_due(self._monotonic()):
            with contextlib.suppress(LinkError):  # the link has died; the next `receive` raises
                for name, qos in subscription("model", root=self._root, task=self._task).items():
                    self._link.subscribe(name, qos=qos)

    def take(self, topic: ParsedTopic, payload: bytes) -> Outcome:
        """Takes a message of any topic of the wire contract."""
        outcome: Outcome = None
        if topic.task != self._task:
            return None
        match topic.kind:
            case "model":
                outcome = self._manifest(payload)
                self._resubscription.heard(self._monotonic(), news=self.is_behind or isinstance(outcome, NewModel))
            case "delta":
                outcome = self._inbox.delta(int(topic.parts["version"]), payload)
            case "chunk":
                outcome = self._inbox.chunk(int(topic.parts["version"]), int(topic.parts["chunk"]), payload)
            case _:
                return None
        self._subscribe()
        return None if self.next_line is not None else outcome

    def _manifest(self, payload: bytes) -> Outcome:
        outcome = self._take_manifest(payload)
        if self._inbox.announcement is not None:
            self.next_line = self._follow(self._inbox.announcement)
        return outcome

    def _take_manifest(self, payload: bytes) -> Outcome:
        if self._trust is None or not payload:
            return self._inbox.manifest(payload)
        try:
            manifest = self._trust.read(payload)
        except DecodeError as error:
            return Rejected(refusal(error))
        return self._inbox.announced(manifest)

    def _subscribe(self) -> None:
        wanted = {} if self.next_line is not None else self._filters(self._inbox.wanted)
        with contextlib.suppress(LinkError):  # the link has died; the next `receive` raises
            for one in [old for old in self._subscribed if old not in wanted]:
                self._link.unsubscribe(one)
                del self._subscribed[one]
            for one in wanted:
                if one not in self._subscribed:
                    self._link.subscribe(one)
                    self._subscribed[one] = None

    def _filters(self, wanted: Wanted) -> dict[str, None]:
        """Deltas first: they are small, so they are there when the snapshot that they continue is complete."""
        filters = [topic_filter("delta", root=self._root, task=self._task, version=one) for one in wanted.deltas]
        if wanted.snapshot is not None:
            filters.append(topic_filter("chunk", root=self._root, task=self._task, version=wanted.snapshot))
        return dict.fromkeys(filters)
