"""The receiving half of a device: gives the inbox what comes, and asks the broker for what the inbox wants."""

import contextlib
import random
import time
from collections.abc import Callable

from device_client.downlink.download_plan import Wanted
from device_client.downlink.inbox import Inbox
from device_client.downlink.model_trust import ModelTrust, refusal
from device_client.downlink.outcome import NewModel, Outcome, Rejected
from device_client.downlink.resubscription import ResubscriptionTimer
from wire_contract.errors import DecodeError, LinkError
from wire_contract.link.protocol import Link
from wire_contract.messages import Manifest
from wire_contract.topics import ParsedTopic, build, subscription, topic_filter


class ModelReceiver:
    """Subscribes to deltas and chunks only while they are wanted: a broker sends to everybody who has asked."""

    def __init__(
        self,
        link: Link,
        *,
        root: str,
        task: str,
        trust: ModelTrust | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`link` is subscribed to the model topic. `trust` says which manifests are used; None: any. `uniform` draws a
        number evenly between two.
        """
        self._link = link
        self._root = root
        self._task = task
        self._inbox = Inbox(task)
        self._trust = trust
        self._asked_for: dict[str, None] = {}
        self._monotonic = monotonic
        self._resubscription = ResubscriptionTimer(monotonic(), uniform=uniform)

    @property
    def held(self) -> NewModel | None:
        """The newest complete model."""
        return self._inbox.held

    @property
    def is_behind(self) -> bool:
        """Whether a newer version was announced than is held."""
        return self._inbox.is_behind

    @property
    def is_disowned(self) -> bool:
        """Whether the aggregator does not know the held model."""
        return self._inbox.is_disowned

    @property
    def lacks(self) -> str:
        """What has not come, of all that a model needs; one line."""
        target = self._inbox.target
        topic = build("model", root=self._root, task=self._task)
        if target is None:
            return f"nothing that can be used is retained on {topic}"
        wanted = self._inbox.wanted
        parts = [f"delta {one}" for one in wanted.deltas]
        parts += [f"chunks of version {wanted.snapshot}"] if wanted.snapshot is not None else []
        return f"version {target.version} is announced on {topic}, and {' and '.join(parts) or 'its parts'} do not come"

    def disown(self, version: int, digest: bytes) -> Outcome:
        """The aggregator does not know this version with these weights."""
        outcome = self._inbox.disown(version, digest)
        self._ask()
        return outcome

    def restore(self, manifest: Manifest) -> Outcome:
        """A cached manifest with its model inline; by what keys it was checked then, the outbox knows."""
        return self._inbox.announced(manifest)

    def renew(self) -> None:
        """Called now and then: asks for the newest manifest again when none has come for long."""
        if self._resubscription.is_due(self._monotonic()):
            with contextlib.suppress(LinkError):  # as below
                for name, qos in subscription("model", root=self._root, task=self._task).items():
                    self._link.subscribe(name, qos=qos)

    def take(self, topic: ParsedTopic, payload: bytes) -> Outcome:
        """What came on a topic of the contract."""
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
        self._ask()
        return outcome

    def _manifest(self, payload: bytes) -> Outcome:
        if self._trust is None or not payload:
            return self._inbox.manifest(payload)
        try:
            manifest = self._trust.read(payload)
        except DecodeError as error:
            return Rejected(refusal(error))
        return self._inbox.announced(manifest)

    def _ask(self) -> None:
        wanted = self._filters(self._inbox.wanted)
        with contextlib.suppress(LinkError):  # the link has died, and `receive` will say so
            for one in [old for old in self._asked_for if old not in wanted]:
                self._link.unsubscribe(one)
                del self._asked_for[one]
            for one in wanted:
                if one not in self._asked_for:
                    self._link.subscribe(one)
                    self._asked_for[one] = None

    def _filters(self, wanted: Wanted) -> dict[str, None]:
        """Deltas first: they are small, and then the snapshot leads all the way when it is here."""
        filters = [topic_filter("delta", root=self._root, task=self._task, version=one) for one in wanted.deltas]
        if wanted.snapshot is not None:
            filters.append(topic_filter("chunk", root=self._root, task=self._task, version=wanted.snapshot))
        return dict.fromkeys(filters)
