"""What stands retained on the aggregator's own topics, as far as was seen, beside what should stand there. Pure.

The aggregator is subscribed to its own model, chunk and delta topics. So it hears what the broker has retained (when it
asks: after each connection, and now and then), what it published itself (the echo), and what somebody else publishes
or deletes there. What it finds missing or different it publishes again; what is not to stand there it deletes.

Payloads are remembered by their SHA-256. Of a publication it is assumed that it stands until something else is heard.
"""

import hashlib
from collections import deque
from collections.abc import Collection, Iterable, Mapping

TOPICS_MAX = 1 << 16
"""So many topics are remembered; whoever may write below the model topic could retain any number."""
_ECHOES_MAX = 64
"""So many publications on one topic can be under way; a version may come with every batch."""


class RetainedState:
    """Knows topics and digests, and nothing of their meaning."""

    def __init__(self) -> None:
        self._wanted: dict[str, bytes] = {}
        self._standing: dict[str, bytes] = {}
        self._confirmed: set[str] | None = None
        """Topics heard of in the census that is under way."""
        self._hears = False
        """Whether echoes come."""
        self._echoes: dict[str, deque[bytes]] = {}
        """Digests that were published and not heard yet, by topic."""

    def want(self, digests: Mapping[str, bytes]) -> None:
        """From now on these should stand: topic to SHA-256 of the payload, in the order of publication."""
        self._wanted = dict(digests)

    def missing(self) -> list[str]:
        """Topics on which something else stands than should, or nothing."""
        return [topic for topic, digest in self._wanted.items() if self._standing.get(topic) != digest]

    def surplus(self, kept: Collection[str]) -> list[str]:
        """Topics on which something stands that is neither wanted nor in `kept`."""
        return [topic for topic in self._standing if topic not in self._wanted and topic not in kept]

    def suspect(self, topics: Iterable[str]) -> None:
        """Something may stand there: where nothing can be heard, what was published once is deleted unseen."""
        for topic in topics:
            self._standing.setdefault(topic, b"")

    def published(self, topic: str, payload: bytes) -> None:
        """The link took it; an empty payload deletes what stands there."""
        self._put(topic, payload)
        if self._hears:
            self._echoes.setdefault(topic, deque(maxlen=_ECHOES_MAX)).append(sha256(payload))

    def given_up(self, topic: str) -> None:
        """The broker would not take it; until the next census it is not tried again."""
        self._standing[topic] = self._wanted[topic]

    def heard(self, topic: str, payload: bytes) -> bool:
        """A message on this topic. Whether it is strange: neither an echo of ours nor what should stand there."""
        digest = sha256(payload)
        echoes = self._echoes.get(topic)
        if echoes and digest in echoes:
            while echoes.popleft() != digest:
                pass
            is_own = True
        else:
            is_own = digest == self._wanted.get(topic) or (not payload and topic not in self._wanted)
        if echoes:
            self._confirm(topic)  # ours is still to come, and the last word is what stands
        else:
            self._echoes.pop(topic, None)
            self._put(topic, payload)
        return not is_own

    def begin_census(self) -> None:
        """From now until `end_census` the broker tells all that it has retained."""
        self._confirmed = set()
        self._echoes.clear()
        self._hears = True

    def end_census(self, *, hears: bool) -> None:
        """What was not heard of, and not published meanwhile, does not stand. `hears`: what is published now on this
        connection comes back.
        """
        self._hears = hears
        if not hears:
            self._echoes.clear()
        confirmed = self._confirmed or set()
        self._confirmed = None
        self._standing = {topic: digest for topic, digest in self._standing.items() if topic in confirmed}

    def _put(self, topic: str, payload: bytes) -> None:
        self._confirm(topic)
        if not payload:
            self._standing.pop(topic, None)
        elif topic in self._standing or topic in self._wanted or len(self._standing) < TOPICS_MAX:
            self._standing[topic] = sha256(payload)

    def _confirm(self, topic: str) -> None:
        if self._confirmed is not None:
            self._confirmed.add(topic)


def sha256(payload: bytes) -> bytes:
    """As topics' payloads are remembered."""
    return hashlib.sha256(payload).digest()
