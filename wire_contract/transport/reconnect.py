"""What became of one attempt to connect, what a person is told of it, and how long to rest before the next."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wire_contract.transport.tls_failures import tls_failure

STABLE_SECONDS = 10.0
"""A connection that ended sooner counts as failed, or two programs with one client id would throw each other out at
full speed."""
TAKEN_OVER_SECONDS = 30.0
"""A broker that hangs up without a word so soon …"""
TAKEN_OVER_TIMES = 3
"""… so often in a row most likely does it for another program with the same client id."""

UNSUPPORTED_PROTOCOL = 0x84
REFUSALS = frozenset({UNSUPPORTED_PROTOCOL, 0x85, 0x86, 0x87, 0x8A, 0x8C})
"""Client id, user name or password, authorisation, ban, method: the same answer will come again."""
TAKEN_OVER = 0x8E
"""MQTT 5's reason code: another program has connected with this client id."""


@dataclass
class ConnectionAttempt:
    """One connection, from the first try on."""

    reached: bool = False
    """Somebody accepted the connection."""
    answered: bool = False
    """…and spoke MQTT: a CONNACK came."""
    unsupported: bool = False
    """…and does not speak this version of it."""
    established_at: float | None = None
    ending: str | None = None
    """Why it ended, for a person; None while it is not known."""
    refused: bool = False
    taken_over: bool = False
    """The broker said that another program has connected with the same client id."""
    error: OSError | None = None
    """What the socket failed with; None: the other side ended the connection in order, or nothing has failed."""

    @property
    def hung_up(self) -> bool:
        """The other side ended the connection in order, and without a reason."""
        return self.reached and self.ending is None and self.error is None


@dataclass(frozen=True)
class DisconnectExplainer:
    """Says in one line why a connection ended."""

    client_id: str
    encrypted: bool = False
    certificate_file: Path | None = None

    def ending(self, attempt: ConnectionAttempt, *, suspected: bool) -> str:
        """Follows "broker HOST:PORT: ".

        Args:
            attempt: it has ended.
            suspected: another program is thought to use the same client id.
        """
        tls = attempt.error if isinstance(attempt.error, ssl.SSLError) else None
        if tls is None and attempt.hung_up and self.encrypted and not attempt.answered:
            tls = ssl.SSLEOFError()
        if tls is not None:
            return tls_failure(tls, certificate_file=self.certificate_file)
        if attempt.taken_over:
            return f"another program connected with {self._name}"
        if attempt.ending is not None:
            return attempt.ending
        if suspected:
            again = "the connection is lost again and again soon after it is made; most likely another program uses"
            return f"{again} {self._name}"
        return "the connection was lost" + (f": {reason_of(attempt.error)}" if attempt.error else "")

    @property
    def _name(self) -> str:
        own = "the same client id, user or certificate"
        return f"{own} (client id {self.client_id}); give each program its own"


def reason_of(error: Exception) -> str:
    """The system's words for it."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__


class ClientIdConflictDetector:
    """Guesses that another program uses the same client id, where the broker does not say so (MQTT 3.1.1 cannot).

    Two such programs throw each other out as often as they come back, and a broker that does it closes the connection
    in order. A network that fails shows as an error or as silence.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times = 0

    def suspects_conflict_after(self, attempt: ConnectionAttempt) -> bool:
        """Whether the attempts so far, this one included, look like that."""
        if attempt.established_at is None:
            return False  # a broker that is away in between proves nothing
        brief = self._clock() - attempt.established_at < TAKEN_OVER_SECONDS
        self._times = self._times + 1 if brief and attempt.hung_up else 0
        return self._times >= TAKEN_OVER_TIMES


class ReconnectBackoff:
    """Longer ones after each attempt that failed, with full jitter: each is drawn evenly from 0 to a width.

    The first width after a connection was lost is `spread_seconds`, for a fleet that lost its broker for a moment must
    not come back within the same second. Before the first connection it is `shortest_seconds`, for a person may wait.
    Each attempt that fails doubles the width, up to `longest_seconds`.
    """

    def __init__(
        self,
        *,
        spread_seconds: float,
        shortest_seconds: float,
        longest_seconds: float,
        uniform: Callable[[float, float], float],
        clock: Callable[[], float],
    ) -> None:
        self._spread = max(spread_seconds, shortest_seconds)
        self._shortest = shortest_seconds
        self._longest = longest_seconds
        self._uniform = uniform
        self._clock = clock
        self._first = shortest_seconds
        self._failed = 0

    def after(self, attempt: ConnectionAttempt) -> float:
        """Seconds to rest."""
        if attempt.established_at is not None:
            self._first = self._spread
            if self._clock() - attempt.established_at >= STABLE_SECONDS:
                self._failed = 0
        widest = min(self._longest, self._first * 2**self._failed)
        self._failed = min(self._failed + 1, 32)
        return self._uniform(0, widest)

    def reset(self) -> None:
        """What made the attempts fail may be mended."""
        self._failed = 0
