"""Why no receipt comes although the connection stands: found out as far as a device can, and told once.

A broker of MQTT 3.1.1 acknowledges a message that its access list forbids and throws it away, so a device that may not
publish looks like one whose aggregator is away. The aggregator's retained status tells them apart, where a device may
read it; production access lists do not let it.
"""

from collections.abc import Callable
from typing import Literal

from device_client.events import Emit
from wire_contract import codec, topics
from wire_contract.errors import DecodeError, LinkError
from wire_contract.link.protocol import Link
from wire_contract.messages import AggregatorStatus

SENDINGS = 3
"""So often an update is sent on one connection without a receipt before anything is told."""
ANSWER_SECONDS_MAX = 5.0
"""A retained status comes at once."""

Found = Literal["online", "offline", "nothing"]


class Silence:
    """Of one device. One thread."""

    def __init__(
        self, link: Link, *, root: str, task: str, device: str, monotonic: Callable[[], float], emit: Emit
    ) -> None:
        self._link = link
        self._root, self._task, self._device = root, task, device
        self._monotonic = monotonic
        self._emit = emit
        self._unanswered = 0
        self._told = False
        self._shard = 0
        self._asked: str | None = None
        """The status topic that is listened to."""
        self._until = 0.0
        self._found: Found = "nothing"

    def sent(self, shard: int) -> None:
        """An update went out to this shard."""
        self._shard = shard
        self._unanswered += 1
        if self._unanswered < SENDINGS or self._told or self._asked is not None:
            return
        topic = topics.build("aggregator", root=self._root, task=self._task, shard=shard)
        try:
            self._link.subscribe(topic, quality=0)
        except LinkError:
            return  # the link is closed; whoever waits for it notices
        self._asked, self._found = topic, "nothing"
        self._until = self._monotonic() + ANSWER_SECONDS_MAX

    def broken(self) -> None:
        """A receipt came."""
        self._unanswered, self._told = 0, False
        self._stop_asking()

    def disconnected(self) -> None:
        """Why no receipt came is plain now."""
        self._unanswered = 0
        self._stop_asking()

    def heard(self, topic: str, payload: bytes) -> None:
        """A message of the aggregator's status topic."""
        if topic != self._asked:
            self._link.unsubscribe(topic)  # the session still has it of a program that was killed while it asked
            return
        try:
            status = codec.decode(payload, AggregatorStatus).status
        except DecodeError:
            return
        self._found = "online" if status == "online" else "offline"
        self._until = self._monotonic()

    def look(self) -> None:
        """To be called in every turn: tells what was found out, when it is time."""
        if self._asked is None or self._monotonic() < self._until:
            return
        self._stop_asking()
        self._told = True
        self._emit("warning", message=self._message())

    def _message(self) -> str:
        update = topics.build("update", root=self._root, task=self._task, shard=self._shard, device=self._device)
        receipt = topics.build("receipt", root=self._root, task=self._task, device=self._device)
        head = f"sent {self._unanswered} times without a receipt, though the connection stands"
        denied = (
            f"the broker does not let this user publish on {update} or read {receipt}, which MQTT 3.1.1 does not tell: "
            "look at its access list, and whether the user has the name of the device"
        )
        match self._found:
            case "online":
                return f"{head}: an aggregator is there, so most likely {denied}"
            case "offline":
                return f"{head}: the aggregator is not running; updates wait for it, and nothing is lost"
            case "nothing":
                return f"{head}: either no aggregator runs for task {self._task} below {self._root}, or {denied}"

    def _stop_asking(self) -> None:
        if self._asked is not None:
            self._link.unsubscribe(self._asked)
            self._asked = None
