"""Inspects the aggregator's own model, chunk and delta topics: whose line is there, what is missing, what is surplus.

    connected ─▶ looking ─▶ settled ─▶ watching ──periodically──▶ looking
                    │ another line, at the start: refused            │ foreign or missing message: publish again

An inspection subscribes (at QoS 0, which bypasses the backlog of the durable session) and then publishes a probe: an
empty, non-retained message on the topic of the delta to version 0, which never exists. Its echo shows that the broker
has processed the subscriptions. Some brokers send retained messages a little later, so a short wait follows. If no echo
comes, the aggregator may not read its own topics (an outdated access list): it then publishes without inspection, and
logs that.
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
from wire_contract.link.protocol import Link, PendingPublish
from wire_contract.signatures.signing import PublicKey
from wire_contract.topics import Kind, topic_filter

log = logging.getLogger(__name__)

OWN: tuple[Kind, ...] = ("model", "chunk", "delta")
SETTLE_SECONDS = 0.5
"""Wait after the echo of the probe: some brokers look up retained messages outside their main loop."""
DEAF_SECONDS = 3.0
"""Wait after the broker has acknowledged the probe; an echo that has not arrived by then will not."""
LOOK_SECONDS_MAX = 10.0
"""Longest inspection, if not even the acknowledgement of the probe arrives."""
CHECK_SECONDS = 600.0
"""Shortest time between two inspections while connected: a broker may lose retained messages without a sign. Ten
minutes are chosen: devices without a manifest wait as long at most, plus the inspection."""
CHECK_BYTES_PER_SECOND = 10_000
"""Traffic that inspections may cause; a large model is inspected less often. Chosen, not measured."""
HEAL_SECONDS = 2.0
"""Wait from the first sign that a message is missing until it is published again. The sign may be a late echo; and if
somebody publishes there continuously, we must not do the same."""
_TELL_SECONDS = 60.0
"""Shortest time between two log lines about foreign messages. Chosen: a program that publishes all the time must not
fill the log, and a minute hides nothing from an operator."""
_SWEPT = 8
"""If nothing can be received: snapshots below the kept ones that are deleted at each connection. Chosen, not measured:
enough for those that a few crashes left; each further one costs up to `CHUNKS_MAX` messages per connection."""


class Inspection:
    """The state machine described in the module."""

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
        """`keys` are the public halves of the signing keys; if there are any, unsigned manifests are not trusted."""
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
        self._probe: PendingPublish | None = None
        self._begun_at = 0.0
        self._taken_at: float | None = None
        """When the broker's acknowledgement of the probe was seen."""
        self._echo_at: float | None = None
        self._model: bytes | None = None
        """The newest payload on the model topic in this inspection."""
        self._model_bytes = 0
        self._look_again_at = 0.0
        self._heal_at: float | None = None
        self._tell_at = 0.0
        self._told_deaf = False
        self.rival_at: float | None = None
        """Latest publication time of a foreign manifest that devices may have accepted instead of ours; None if there
        is none. Reset by whoever publishes a later one.
        """
        self.strangers = 0
        """Foreign messages on the model topic since the program started."""
        for one in self._filters:
            link.subscribe(one, qos=0)

    def __contains__(self, topic: str) -> bool:
        """Whether messages on this topic belong to `hear`."""
        return any(matches(one, topic) for one in self._filters)

    @property
    def is_looking(self) -> bool:
        """Whether an inspection is in progress."""
        return self._state == "looking"

    def connected(self) -> None:
        """The link has resubscribed; the broker now sends its retained messages."""
        self._begin()

    def disconnected(self) -> None:
        self._state = "away"
        self._heal_at = None

    def hear(self, topic: str, payload: bytes) -> None:
        """Takes a message on one of our topics."""
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
        """True once at the end of each inspection; `found` then returns its result."""
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
        """The retained manifest and its classification; None if there is none."""
        if self._model is None:
            return None
        return identify(self._model, task=self._task, marks=self._ledger, keys=self._keys)

    def report(self, found: RetainedManifest) -> None:
        """Logs a manifest of another line, at most once per minute."""
        self.strangers += 1
        if self.strangers > 1 and self._monotonic() < self._tell_at:
            return
        self._tell_at = self._monotonic() + _TELL_SECONDS
        which = found.reason if found.manifest is None else f"version {found.manifest.version} of another line"
        log.error(
            "another program published on %s (%s); this aggregator continues and publishes its own model again. Stop "
            "the other program, or give it another task or --root",
            self._publisher.model_topic,
            which,
        )

    def is_to_be_healed(self) -> bool:
        """True once each time that a message was found missing or replaced while watching."""
        if self._heal_at is None or self._monotonic() < self._heal_at:
            return False
        self._heal_at = None
        missing = self._retained.missing()
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            log.warning("%s%s: not the message that this aggregator published; publishing it again", missing[0], more)
        return bool(missing) or self.rival_at is not None

    def tidy(self) -> bool:
        """Deletes expired messages; False: some remain."""
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
            self._probe = None  # the queue is full; `LOOK_SECONDS_MAX` ends the inspection

    def _look_again(self) -> None:
        try:
            for one in self._filters:
                self._link.subscribe(one, qos=0)
        except LinkError as error:
            log.warning("the model topics cannot be inspected: %s", error)
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
        """Nothing was received, so everything is published, and possible leftovers are deleted unseen."""
        if not self._told_deaf:
            self._told_deaf = True
            log.warning(
                "the broker does not let this aggregator read its own model topics (%s), so it can neither see whether "
                "another line is there nor replace lost messages; update the broker's access list (broker_config/)",
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
        if found is not None and found.whose != "ours":  # otherwise it is a late echo
            self.report(found)
