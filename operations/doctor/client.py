"""An MQTT client for probes, with bounded waiting times."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from wire_contract.errors import PayloadTooLarge
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Connected, Delivery, Disconnected

if TYPE_CHECKING:
    from wire_contract.link.outgoing import OutgoingMessage

CONNECT_SECONDS_MAX = 5.0
"""Chosen: enough for TLS over a slow line; each check may have to connect within `EXAMINATION_SECONDS_MAX`."""
ANSWER_SECONDS_MAX = 3.0
"""For an acknowledgement or a delivery."""
_STEP_SECONDS = 0.05
"""Between two looks at what has happened; chosen, well below anything that is reported."""
_EVENTS_MAX = 256
"""Taken at a time; the default Receive Maximum of a link."""

PublishOutcome = Literal["acknowledged", "refused", "too large", "disconnected", "timed out"]
"""Of a publication: acknowledged; refused by the broker; over the limit that it announced; the connection was closed;
no answer in time."""


class ProbeError(Exception):
    """A probe cannot go on."""


class OutOfTime(ProbeError):
    """The examination has used up its time."""


class ConnectionFailed(ProbeError):
    """No connection was made."""

    def __init__(self, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused
        """The broker answered and refused."""


class ConnectionLost(ProbeError):
    """The connection was lost during a probe."""


class TimeBudget:
    """The remaining time of an examination; no wait is longer."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = clock() + seconds

    def limit(self, seconds: float) -> float:
        """`seconds`, or less if less time remains.

        Raises:
            OutOfTime: no time remains.
        """
        left = self._until - self._clock()
        if left <= 0:
            raise OutOfTime("no time was left for this check")
        return min(seconds, left)


class ProbeClient:
    """Connects on creation; disconnects at the end of the `with` block.

    Raises:
        ConnectionFailed: no connection was made.
        OutOfTime: in any method, when no time remains.
    """

    def __init__(self, settings: MqttSettings, budget: TimeBudget) -> None:
        self._budget = budget
        self._received: deque[Delivery] = deque()
        until = time.monotonic() + budget.limit(CONNECT_SECONDS_MAX)
        self._link = MqttLink(settings)
        self.disconnects: list[str] = []
        """Reasons of lost connections, oldest first."""
        self.session_present = False
        try:
            self._arrive(until)
        except BaseException:
            self._link.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._link.close()

    @property
    def granted(self) -> Mapping[str, int]:
        return self._link.granted

    def subscribe(self, topic_filter: str) -> None:
        """Adds a subscription, which the broker may refuse."""
        self._link.subscribe(topic_filter)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, seconds: float | None = None
    ) -> PublishOutcome:
        """Publishes and waits for the acknowledgement."""
        (outcome,) = self.publish_all([(topic, payload)], retain=retain, seconds=seconds)
        return outcome

    def publish_all(
        self, messages: Iterable[tuple[str, bytes]], *, retain: bool = False, seconds: float | None = None
    ) -> Sequence[PublishOutcome]:
        """Publishes all messages, as many at a time as the broker accepts. Returns each outcome, in order."""
        ended_before = len(self.disconnects)
        sent = [self._send(topic, payload, retain=retain) for topic, payload in messages]
        until = time.monotonic() + self._budget.limit(ANSWER_SECONDS_MAX if seconds is None else seconds)
        for message in sent:
            while message is not None and not message.is_settled and time.monotonic() < until:
                message.wait(_STEP_SECONDS)
                self._take(0)
                if len(self.disconnects) > ended_before:
                    break
        late: PublishOutcome = "disconnected" if len(self.disconnects) > ended_before else "timed out"
        return [
            "too large" if message is None else late if not message.is_settled else _settled(message.wait(0))
            for message in sent
        ]

    def receive(
        self,
        enough: Callable[[Sequence[Delivery]], bool],
        *,
        seconds: float = ANSWER_SECONDS_MAX,
        quiet_seconds: float | None = None,
        ack: bool = True,
        across_reconnects: bool = False,
    ) -> list[Delivery]:
        """Receives until `enough`, until nothing has come for `quiet_seconds`, or until the time is up.

        Args:
            enough: takes everything received in this call.
            seconds: limit for the whole call.
            quiet_seconds: ends the call after this time without a message; None: never.
            ack: whether to acknowledge what was received.
            across_reconnects: a lost connection does not end the call.
        """
        received: list[Delivery] = []
        ended_before = len(self.disconnects)
        quiet = seconds if quiet_seconds is None else quiet_seconds
        until = time.monotonic() + self._budget.limit(seconds)
        quiet_until = time.monotonic() + quiet
        while not enough(received):
            if len(self.disconnects) > ended_before and not across_reconnects:
                break
            # Checked before receiving: messages that arrived while this machine was busy do not count as silence.
            is_late, is_quiet = time.monotonic() >= until, time.monotonic() >= quiet_until
            self._take(0 if is_late or is_quiet else _STEP_SECONDS)
            if is_quiet and not self._received:
                break
            while self._received:
                delivery = self._received.popleft()
                received.append(delivery)
                if ack:
                    self._link.ack(delivery)
                quiet_until = time.monotonic() + quiet
            if is_late:
                break
        return received

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self._link.ack(delivery)

    def _send(self, topic: str, payload: bytes, *, retain: bool) -> "OutgoingMessage | None":
        """None: it is over the limit that the broker announces."""
        try:
            return self._link.publish(topic, payload, retain=retain)
        except PayloadTooLarge:
            return None

    def _take(self, seconds: float) -> None:
        if self._received:
            seconds = 0
        for event in self._link.receive(count=_EVENTS_MAX, timeout_seconds=seconds):
            match event:
                case Delivery():
                    self._received.append(event)
                case Disconnected(reason):
                    self.disconnects.append(reason)
                case Connected(session_present=present):
                    self.session_present = present

    def _arrive(self, until: float) -> None:
        while events := self._link.receive(count=1, timeout_seconds=max(0.0, until - time.monotonic())):
            match events[0]:
                case Connected(session_present=present):
                    self.session_present = present
                    return
                case Disconnected(reason, refused):
                    raise ConnectionFailed(reason, refused=refused)
                case _:
                    pass
        raise ConnectionFailed("it does not answer like an MQTT broker", refused=False)


def _settled(taken: bool) -> PublishOutcome:
    return "acknowledged" if taken else "refused"
