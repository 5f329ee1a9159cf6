"""The aggregator's look at its own model, chunk and delta topics: whose line stands there, what is missing, what old.

    connected ─▶ looking ─▶ settled ─▶ watching ──now and then──▶ looking
                    │ another line, at the start: refused            │ something strange, or gone: published again

A look subscribes (at QoS 0: past whatever backlog the durable session has) and then publishes a probe, an empty message
that is not retained, on the topic of the delta to version 0, which no line ever has. Its echo says that the broker has
worked through the subscriptions; a broker may still send what it has retained a little later, so a short rest follows.
Without an echo the aggregator may not read its own topics (an older access list): it then publishes unseen, as it did
before it could look, and says so.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from aggregator.ledger.ledger import Ledger
from aggregator.publishing.ownership import RetainedManifest, identify, outranks
from aggregator.publishing.publisher import Publisher
from wire_contract.errors import LinkError
from wire_contract.limits import KEPT_DELTAS, KEPT_SNAPSHOTS
from wire_contract.link.mqtt_rules import matches
from wire_contract.link.protocol import Link, Publication
from wire_contract.signatures.signing import PublicKey
from wire_contract.topics import Kind, topic_filter

log = logging.getLogger(__name__)

OWN: tuple[Kind, ...] = ("model", "chunk", "delta")
SETTLE_SECONDS = 0.5
"""After the echo of the probe: brokers that look up retained messages beside their main loop need a moment."""
DEAF_SECONDS = 3.0
"""After the broker has taken the probe: an echo that has not come by then will not come."""
LOOK_SECONDS_MAX = 10.0
"""Of one look, should even the acknowledgement of the probe not come."""
CHECK_SECONDS = 600.0
"""Between two looks while connected, at least: a broker may lose what it retained and say nothing."""
CHECK_BYTES_PER_SECOND = 10_000
"""A large model is looked at less often, so that looking takes no more than this."""
HEAL_SECONDS = 2.0
"""From the first sign that something is missing until it is published again: the sign may be an echo that is late, and
somebody who publishes there without rest must not make us do the same."""
_TELL_SECONDS = 60.0
"""Between two lines about strangers."""
_SWEPT = 8
"""Where nothing can be heard, so many snapshots and deltas below the kept ones are deleted at each connection."""


class Inspection:
    """See the module."""

    def __init__(
        self,
        publisher: Publisher,
        link: Link,
        ledger: Ledger,
        *,
        root: str,
        task: str,
        keys: Sequence[PublicKey],
        monotonic: Callable[[], float],
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        """`keys` are the public halves of the signing keys; with them, only what they signed is taken for a line."""
        self._publisher = publisher
        self._retained = publisher.retained
        self._link = link
        self._ledger = ledger
        self._task = task
        self._keys = keys
        self._monotonic = monotonic
        self._settle_seconds = settle_seconds
        self._filters = [topic_filter(kind, root=root, task=task) for kind in OWN]
        self._probe_topic = publisher.delta_topic(0)
        self._state: Literal["away", "looking", "watching"] = "away"
        self._probe: Publication | None = None
        self._begun_at = 0.0
        self._taken_at: float | None = None
        """When the broker was seen to have taken the probe."""
        self._echo_at: float | None = None
        self._model: bytes | None = None
        """The newest payload of the model topic in this look."""
        self._model_bytes = 0
        self._look_again_at = 0.0
        self._heal_at: float | None = None
        self._tell_at = 0.0
        self._told_deaf = False
        self.rival_at: float | None = None
        """The latest moment of publication of what somebody else announced and devices may have taken instead of what
        was announced here; None: there is nothing of that kind. Whoever publishes above it sets it back.
        """
        self.strangers = 0
        """Messages that were not ours on the model topic while this program ran."""
        for one in self._filters:
            link.subscribe(one, qos=0)

    def __contains__(self, topic: str) -> bool:
        """Whether messages of this topic are to be given to `hear`."""
        return any(matches(one, topic) for one in self._filters)

    @property
    def is_looking(self) -> bool:
        """Whether it is not known yet what stands there."""
        return self._state == "looking"

    def connected(self) -> None:
        """The link has subscribed again; the broker now tells what it has retained."""
        self._begin()

    def disconnected(self) -> None:
        self._state = "away"
        self._heal_at = None

    def hear(self, topic: str, payload: bytes) -> None:
        """A message on a topic that is in here."""
        if topic == self._probe_topic and not payload:
            if self._echo_at is None:
                self._echo_at = self._monotonic()
            return
        self._model_bytes += len(payload) if self.is_looking else 0
        is_strange = self._retained.heard(topic, payload)
        if topic == self._publisher.model_topic:
            self._model = payload or None
            if is_strange and payload:
                self._note_rival()
        if is_strange and self._state == "watching":
            self._notice(topic, payload)

    def look_is_over(self) -> bool:
        """True once for each look: then `found` says what it has seen."""
        now = self._monotonic()
        if self._state == "watching" and now >= self._look_again_at and self._can_hear:
            self._look_again()
        if self._state != "looking" or not self._is_settled(now):
            return False
        self._state = "watching"
        self._retained.end_census(hears=self._can_hear)
        if not self._can_hear:
            self._note_deaf()
        pause = max(CHECK_SECONDS, self._model_bytes / CHECK_BYTES_PER_SECOND)
        self._look_again_at = now + pause
        return True

    def found(self) -> RetainedManifest | None:
        """The manifest that stands on the broker, and whose it is; None: there is none."""
        if self._model is None:
            return None
        return identify(self._model, task=self._task, marks=self._ledger, keys=self._keys)

    def report(self, found: RetainedManifest) -> None:
        """Tells of a manifest that is not of this line; now and then, should it come again and again."""
        self.strangers += 1
        if self.strangers > 1 and self._monotonic() < self._tell_at:
            return
        self._tell_at = self._monotonic() + _TELL_SECONDS
        which = found.reason if found.manifest is None else f"version {found.manifest.version} of another line"
        log.error(
            "somebody else published on %s (%s): this aggregator goes on and publishes its own; stop the other, or "
            "give it another task or --root",
            self._publisher.model_topic,
            which,
        )

    def is_to_be_healed(self) -> bool:
        """True once for each time that something was found missing or replaced while watching."""
        if self._heal_at is None or self._monotonic() < self._heal_at:
            return False
        self._heal_at = None
        missing = self._retained.missing()
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            log.warning("%s%s: not what this aggregator published; publishing again", missing[0], more)
        return bool(missing) or self.rival_at is not None

    def tidy(self) -> bool:
        """Deletes what is no longer kept; False: not all of it yet."""
        snapshots = self._ledger.chunked_snapshots(KEPT_SNAPSHOTS)
        kept = {self._publisher.chunk_topic(version, index) for version, chunks in snapshots for index in range(chunks)}
        return self._publisher.tidy(kept)

    # -- inside

    @property
    def _can_hear(self) -> bool:
        return self._echo_at is not None

    def _begin(self) -> None:
        self._state = "looking"
        self._retained.begin_census()
        self._begun_at = self._monotonic()
        self._echo_at = self._taken_at = self._heal_at = None
        self._model = None
        self._model_bytes = 0
        try:
            self._probe = self._link.publish(self._probe_topic, b"")
        except LinkError:
            self._probe = None  # the queue is full; `LOOK_SECONDS_MAX` ends the look

    def _look_again(self) -> None:
        try:
            for one in self._filters:
                self._link.subscribe(one, qos=0)
        except LinkError as error:
            log.warning("the model topics cannot be looked at: %s", error)
            self._look_again_at = self._monotonic() + CHECK_SECONDS
            return
        self._begin()

    def _is_settled(self, now: float) -> bool:
        if self._echo_at is not None:
            return now >= self._echo_at + self._settle_seconds
        if self._taken_at is None and self._probe is not None and self._probe.wait(0.0):
            self._taken_at = now
        is_deaf = self._taken_at is not None and now >= self._taken_at + DEAF_SECONDS
        return is_deaf or now >= self._begun_at + LOOK_SECONDS_MAX

    def _note_deaf(self) -> None:
        """Nothing was heard, so nothing is known: all is published, and what may be left over is deleted unseen."""
        if not self._told_deaf:
            self._told_deaf = True
            log.warning(
                "the broker does not let this aggregator read its own model topics (%s): it cannot see whether another "
                "line stands there, nor mend what is lost; bring the broker's access list up to date (broker_config/)",
                ", ".join(self._filters),
            )
        self._retained.suspect(
            self._publisher.delta_topic(one) for one in self._ledger.newest_versions(2 * KEPT_DELTAS)
        )
        for version, chunks in self._ledger.chunked_snapshots(KEPT_SNAPSHOTS + _SWEPT):
            self._retained.suspect(self._publisher.chunk_topic(version, index) for index in range(chunks))

    def _note_rival(self) -> None:
        found, newest = self.found(), self._publisher.newest
        if found is None or found.manifest is None or newest is None:
            return
        rival = found.manifest
        if outranks(rival, version=newest.version, digest=newest.digest, published_at=newest.published_at):
            self.rival_at = max(self.rival_at or 0.0, rival.published_at)

    def _notice(self, topic: str, payload: bytes) -> None:
        if self._heal_at is None:
            self._heal_at = self._monotonic() + HEAL_SECONDS
        if topic != self._publisher.model_topic or not payload:
            return
        found = self.found()
        if found is not None and found.whose != "ours":  # else it is an echo that is late
            self.report(found)
