"""Which retained messages are on the aggregator's own topics, as far as observed, and which should be. No I/O.

The aggregator subscribes to its own model, chunk and delta topics. So it receives what the broker has retained (on
request: after each connection, and periodically), its own publications (echoes), and whatever others publish or delete
there. Missing or different messages are published again; others are deleted.

Payloads are remembered by their SHA-256. A publication is assumed to be retained until something else is received.
"""

import hashlib
from collections import deque
from collections.abc import Collection, Iterable, Mapping

TOPICS_MAX = 1 << 16
"""Topics remembered: anybody who may write below the model topic could create any number of them."""
_ECHOES_MAX = 64
"""Publications on one topic whose echo is outstanding; every batch may make a version."""


class RetainedState:
    """Topics and digests; it does not know what they mean."""

    def __init__(self) -> None:
        self._wanted: dict[str, bytes] = {}
        self._standing: dict[str, bytes] = {}
        self._confirmed: set[str] | None = None
        """Topics seen in the current census; None outside of one."""
        self._hears = False
        """Whether the broker delivers our own publications to us."""
        self._echoes: dict[str, deque[bytes]] = {}
        """Digests by topic that were published and whose echo is outstanding."""

    def want(self, digests: Mapping[str, bytes]) -> None:
        """Sets the desired state: SHA-256 of the payload by topic, in the order of publication."""
        self._wanted = dict(digests)

    def missing(self) -> list[str]:
        """Topics whose retained message is missing or different from the desired one."""
        return [topic for topic, digest in self._wanted.items() if self._standing.get(topic) != digest]

    def surplus(self, kept: Collection[str]) -> list[str]:
        """Topics with a retained message that is neither desired nor in `kept`."""
        return [topic for topic in self._standing if topic not in self._wanted and topic not in kept]

    def suspect(self, topics: Iterable[str]) -> None:
        """Marks topics that may have a retained message: if nothing can be received, they are deleted unseen."""
        for topic in topics:
            self._standing.setdefault(topic, b"")

    def published(self, topic: str, payload: bytes) -> None:
        """The link accepted a publication; an empty payload deletes the retained message."""
        self._put(topic, payload)
        if self._hears:
            self._echoes.setdefault(topic, deque(maxlen=_ECHOES_MAX)).append(sha256(payload))

    def given_up(self, topic: str) -> None:
        """The broker does not accept this message; it is not tried again until the next census."""
        self._standing[topic] = self._wanted[topic]

    def heard(self, topic: str, payload: bytes) -> bool:
        """A message was received; returns whether it is foreign, that is neither our echo nor the desired message."""
        digest = sha256(payload)
        echoes = self._echoes.get(topic)
        if echoes and digest in echoes:
            while echoes.popleft() != digest:
                pass
            is_own = True
        else:
            is_own = digest == self._wanted.get(topic) or (not payload and topic not in self._wanted)
        if echoes:
            self._confirm(topic)  # our own echo is still to come, and the last message is the one retained
        else:
            self._echoes.pop(topic, None)
            self._put(topic, payload)
        return not is_own

    def begin_census(self) -> None:
        """Starts a census: until `end_census` the broker delivers everything that it has retained."""
        self._confirmed = set()
        self._echoes.clear()
        self._hears = True

    def end_census(self, *, hears: bool) -> None:
        """Ends it: what was neither received nor published meanwhile is not retained.

        `hears` tells whether our publications on this connection come back to us.
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
    """Digest by which a payload is remembered."""
    return hashlib.sha256(payload).digest()
