"""Result of an attempt to connect, the line that explains it to people, and the delay before the next attempt."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wire_contract.transport.tls_failures import tls_failure

STABLE_SECONDS = 10.0
"""A shorter connection counts as failed. Otherwise two programs with the same client id would disconnect each other
without any delay."""
TAKEN_OVER_SECONDS = 30.0
"""If the broker closes connections without a reason within this time …"""
TAKEN_OVER_TIMES = 3
"""… this many times in a row, another program most likely uses the same client id."""

UNSUPPORTED_PROTOCOL = 0x84
REFUSALS = frozenset({UNSUPPORTED_PROTOCOL, 0x85, 0x86, 0x87, 0x8A, 0x8C})
"""Client id, user name or password, authorisation, ban, method: trying again gives the same answer."""
TAKEN_OVER = 0x8E
"""Reason code of MQTT 5: another program has connected with this client id."""


@dataclass
class ConnectionAttempt:
    """One connection, from the first attempt to its end."""

    reached: bool = False
    """The TCP connection was accepted, TLS included."""
    answered: bool = False
    """A CONNACK arrived."""
    unsupported: bool = False
    """The broker does not support this version of MQTT."""
    established_at: float | None = None
    ending: str | None = None
    """Why it ended, for people; None while unknown."""
    refused: bool = False
    taken_over: bool = False
    """The broker reported that another program has connected with the same client id."""
    error: OSError | None = None
    """The error of the socket; None: the other side closed the connection normally, or nothing has failed."""

    @property
    def hung_up(self) -> bool:
        """The other side closed the connection normally, but without a reason."""
        return self.reached and self.ending is None and self.error is None


@dataclass(frozen=True)
class DisconnectExplainer:
    """Explains in one line why a connection ended."""

    client_id: str
    encrypted: bool = False
    certificate_file: Path | None = None

    def ending(self, attempt: ConnectionAttempt, *, suspected: bool) -> str:
        """The text after "broker HOST:PORT: ".

        Args:
            attempt: that has ended.
            suspected: whether another program probably uses the same client id.
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
    """The system's text for an error."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__


class ClientIdConflictDetector:
    """Guesses that another program uses the same client id, if the broker does not report it (MQTT 3.1.1 cannot).

    Two such programs disconnect each other as often as they reconnect, and the broker closes the connection normally
    each time. A network failure shows as an error or as silence.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times = 0

    def suspects_conflict_after(self, attempt: ConnectionAttempt) -> bool:
        """Whether the attempts so far, including this one, look like that."""
        if attempt.established_at is None:
            return False  # the broker was unreachable in between, which proves nothing
        brief = self._clock() - attempt.established_at < TAKEN_OVER_SECONDS
        self._times = self._times + 1 if brief and attempt.hung_up else 0
        return self._times >= TAKEN_OVER_TIMES


class ReconnectBackoff:
    """Exponential backoff with full jitter: each delay is drawn uniformly from 0 to a maximum.

    After a lost connection, the first maximum is `spread_seconds`, because a fleet that lost its broker for a moment
    must not reconnect within the same second. Before the first connection it is `shortest_seconds`, as a person may be
    waiting. Each failed attempt doubles the maximum, up to `longest_seconds`.
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
        """Seconds to wait after this attempt."""
        if attempt.established_at is not None:
            self._first = self._spread
            if self._clock() - attempt.established_at >= STABLE_SECONDS:
                self._failed = 0
        widest = min(self._longest, self._first * 2**self._failed)
        self._failed = min(self._failed + 1, 32)
        return self._uniform(0, widest)

    def reset(self) -> None:
        """The cause of the failures may be fixed: the next delay is short again."""
        self._failed = 0
