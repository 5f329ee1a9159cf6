"""The newest model from a broker, for programs that only read models: the evaluator and the export."""

import time
from collections.abc import Callable, Mapping

from device_client.downlink.model_trust import ModelTrust
from device_client.downlink.no_model_warning import NoModelWarning
from device_client.downlink.outcome import NewModel, Rejected
from device_client.downlink.receiver import ModelReceiver
from device_client.events import Emit
from wire_contract.errors import TopicError
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Link, QoS
from wire_contract.program.command_settings import UsageError
from wire_contract.program.repeat_filter import RepeatFilter
from wire_contract.topics import parse, subscription

RECEIVE_COUNT = 256
"""Link events taken in one call."""


def models_only(root: str, task: str) -> Mapping[str, QoS]:
    """What one listens to that wants models and has no receipts to wait for. Deltas and chunks are asked for."""
    return subscription("model", root=root, task=task)


class ModelFeed:
    """The newest model that comes over a link. Acknowledges what it took: it comes again with the next session."""

    def __init__(
        self,
        link: Link,
        *,
        task: str,
        root: str,
        emit: Emit,
        greet: Callable[[], object] = lambda: None,
        trust: ModelTrust | None = None,
    ) -> None:
        """`greet` is called on every connection; `trust` says which manifests are used, None: any."""
        self.trouble: str | None = "not connected yet"
        """Why there is no connection, in one line; None: there is one."""
        self._link = link
        self._root = root
        self._emit = emit
        self._greet = greet
        self._receiver = ModelReceiver(link, root=root, task=task, trust=trust)
        self._no_model_warning = NoModelWarning(self._receiver, monotonic=time.monotonic, emit=emit)
        self._was_connected = False
        self._told = RepeatFilter()

    @property
    def is_behind(self) -> bool:
        """Whether a newer version was announced than has arrived."""
        return self._receiver.is_behind

    def newest(self, *, timeout_seconds: float) -> NewModel | None:
        """The newest model that arrived since the last call, waiting so long at most for something to arrive.

        Raises:
            UsageError: the broker refused us from the first.
            LinkError: the link has died.
        """
        newest = None
        more = True
        while more:
            more = False  # unless messages came: a broker that is away gives an event each time, for ever
            for event in self._link.receive(count=RECEIVE_COUNT, timeout_seconds=timeout_seconds):
                if isinstance(event, Delivery):
                    newest, more, timeout_seconds = self._take(event) or newest, True, 0.0
                else:
                    self._note(event)
        self._receiver.renew()
        self._no_model_warning.look(connected=self.trouble is None)
        return newest

    def _take(self, delivery: Delivery) -> NewModel | None:
        try:
            topic = parse(delivery.topic, root=self._root)
        except TopicError:
            return None  # of a subscription that the broker kept of an earlier program
        finally:
            self._link.ack(delivery)
        taken = self._receiver.take(topic, delivery.payload)
        if isinstance(taken, Rejected):
            self._emit("warning", message=taken.reason)
            return None
        return taken

    def _note(self, event: Connected | Disconnected) -> None:
        if isinstance(event, Connected):
            self._was_connected, self.trouble = True, None
            self._told.resolve()
            self._emit("connected", session_present=event.session_present)
            self._greet()
            return
        self.trouble = event.reason
        if event.refused and not self._was_connected:
            raise UsageError(event.reason)
        if self._told.passes(event.reason):  # days without a broker are one line, not one an attempt
            self._emit("disconnected", reason=event.reason)
