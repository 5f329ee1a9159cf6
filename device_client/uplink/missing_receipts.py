"""Why no receipts come although the device is connected: diagnosed as far as a device can, and reported once.

An MQTT 3.1.1 broker acknowledges a message that its access list forbids, and discards it. So a device that may not
publish looks like one whose aggregator is down. The aggregator's retained status tells the two apart if the device may
read it; production access lists do not allow that.
"""

from collections.abc import Callable
from typing import Literal

from device_client.events import Emit
from wire_contract import codec, topics
from wire_contract.errors import DecodeError, LinkError
from wire_contract.link.protocol import Link
from wire_contract.messages import AggregatorStatus

SENDINGS = 3
"""Updates sent on one connection without any receipt before it is reported. One may be lost; three point to a cause."""
ANSWER_SECONDS_MAX = 5.0
"""How long to wait for the aggregator's status. It is retained, so it comes at once or not at all."""

Found = Literal["online", "offline", "nothing"]


class MissingReceipts:
    """The diagnosis of one device; used by one thread."""

    def __init__(
        self, link: Link, *, root: str, task: str, device: str, monotonic: Callable[[], float], emit: Emit
    ) -> None:
        self._link = link
        self._root, self._task, self._device = root, task, device
        self._monotonic = monotonic
        self._emit = emit
        self._unanswered = 0
        self._reported = False
        self._shard = 0
        self._asked: str | None = None
        """The status topic that is subscribed to; None: the diagnosis has not begun."""
        self._until = 0.0
        self._found: Found = "nothing"

    def sent(self, shard: int) -> None:
        """An update was sent to this shard."""
        self._shard = shard
        self._unanswered += 1
        if self._unanswered < SENDINGS or self._reported or self._asked is not None:
            return
        topic = topics.build("aggregator", root=self._root, task=self._task, shard=shard)
        try:
            self._link.subscribe(topic, qos=0)
        except LinkError:
            return  # the link is closed; the next `receive` raises
        self._asked, self._found = topic, "nothing"
        self._until = self._monotonic() + ANSWER_SECONDS_MAX

    def received(self) -> None:
        """A receipt came."""
        self._unanswered, self._reported = 0, False
        self._stop_asking()

    def disconnected(self) -> None:
        """No receipt came because there is no connection."""
        self._unanswered = 0
        self._stop_asking()

    def heard(self, topic: str, payload: bytes) -> None:
        """A message of the aggregator's status topic."""
        if topic != self._asked:
            self._link.unsubscribe(topic)  # left in the session by a process that was killed during its diagnosis
            return
        try:
            status = codec.decode(payload, AggregatorStatus).status
        except DecodeError:
            return
        self._found = "online" if status == "online" else "offline"
        self._until = self._monotonic()

    def look(self) -> None:
        """Reports the result when it is due; called in every turn of the loop."""
        if self._asked is None or self._monotonic() < self._until:
            return
        self._stop_asking()
        self._reported = True
        self._emit("warning", message=self._message())

    def _message(self) -> str:
        update = topics.build("update", root=self._root, task=self._task, shard=self._shard, device=self._device)
        receipt = topics.build("receipt", root=self._root, task=self._task, device=self._device)
        head = f"sent {self._unanswered} times without a receipt although connected"
        denied = (
            f"the broker does not allow this user to publish on {update} or to read {receipt}, which MQTT 3.1.1 does "
            "not report: check its access list, and whether the user is named like the device"
        )
        match self._found:
            case "online":
                return f"{head}: an aggregator is running, so most likely {denied}"
            case "offline":
                return f"{head}: the aggregator is not running; updates wait for it and nothing is lost"
            case "nothing":
                return f"{head}: either no aggregator is running for task {self._task} below {self._root}, or {denied}"

    def _stop_asking(self) -> None:
        if self._asked is not None:
            self._link.unsubscribe(self._asked)
            self._asked = None
