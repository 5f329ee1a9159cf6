"""One client of the broker under examination, and only as patient as it was told to be."""

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
ANSWER_SECONDS_MAX = 3.0
"""For an acknowledgement, or for what should be delivered."""
_STEP_SECONDS = 0.05
_EVENTS_MAX = 256

PublishOutcome = Literal["acknowledged", "refused", "too large", "disconnected", "timed out"]
"""Of a publication: acknowledged; said no to; over the limit that the broker announced; the connection ended; nothing
came in time."""


class ProbeError(Exception):
    """A probe cannot go on."""


class OutOfTime(ProbeError):
    """The examination has taken as long as it may."""


class ConnectionFailed(ProbeError):
    """No connection came about."""

    def __init__(self, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused
        """The broker answered and said no."""


class ConnectionLost(ProbeError):
    """The connection ended in the middle of a probe."""


class TimeBudget:
    """The time that is left; no wait is longer."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = clock() + seconds

    def limit(self, seconds: float) -> float:
        """So long at most.

        Raises:
            OutOfTime: nothing is left.
        """
        left = self._until - self._clock()
        if left <= 0:
            raise OutOfTime("the examination has taken as long as it may")
        return min(seconds, left)


class ProbeClient:
    """Connects when it is made; leaves when the block ends.

    Raises:
        ConnectionFailed: no connection comes about.
        OutOfTime: in any method, when the budget is used up.
    """

    def __init__(self, settings: MqttSettings, budget: TimeBudget) -> None:
        self._budget = budget
        self._received: deque[Delivery] = deque()
        until = time.monotonic() + budget.limit(CONNECT_SECONDS_MAX)
        self._link = MqttLink(settings)
        self.disconnects: list[str] = []
        """Why connections ended, oldest first."""
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
        """One more filter, which the broker may refuse."""
        self._link.subscribe(topic_filter)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, seconds: float | None = None
    ) -> PublishOutcome:
        """And waits for the acknowledgement."""
        (outcome,) = self.publish_all([(topic, payload)], retain=retain, seconds=seconds)
        return outcome

    def publish_all(
        self, messages: Iterable[tuple[str, bytes]], *, retain: bool = False, seconds: float | None = None
    ) -> Sequence[PublishOutcome]:
        """As many at a time as the broker takes. The outcome of each, in order."""
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
        """What comes until it is enough, until nothing has come for `quiet_seconds`, or so long at most.

        Args:
            enough: of all that was received in this call.
            seconds: for the whole call.
            quiet_seconds: None: silence does not end it.
            ack: whether the broker may forget what was received.
            across_reconnects: a connection that ends does not end the call.
        """
        received: list[Delivery] = []
        ended_before = len(self.disconnects)
        quiet = seconds if quiet_seconds is None else quiet_seconds
        until = time.monotonic() + self._budget.limit(seconds)
        quiet_until = time.monotonic() + quiet
        while not enough(received):
            if len(self.disconnects) > ended_before and not across_reconnects:
                break
            # Asked before the look: what came while this machine was busy elsewhere was not silence.
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
        """None: it would be over the limit that the broker announces."""
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
        raise ConnectionFailed("it does not answer as an MQTT broker", refused=False)


def _settled(taken: bool) -> PublishOutcome:
    return "acknowledged" if taken else "refused"
