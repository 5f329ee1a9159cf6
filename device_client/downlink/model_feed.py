"""The newest model from a broker, for programs that only read models: the evaluator and the export."""

import time
from collections.abc import Callable, Mapping

from device_client.downlink.line_check import OwnLine
from device_client.downlink.lines import Follow
from device_client.downlink.model_trust import ModelTrust
from device_client.downlink.no_model_warning import NoModelWarning
from device_client.downlink.outcome import NewModel, Rejected
from device_client.downlink.receiver import ModelReceiver
from device_client.events import Emit
from wire_contract.errors import LineMismatch, TopicError
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Link, QoS
from wire_contract.messages import Manifest
from wire_contract.program.command_settings import UsageError
from wire_contract.program.repeat_filter import RepeatFilter
from wire_contract.topics import parse, subscription

RECEIVE_COUNT = 256
"""Link events taken in one call; enough for the chunks of a model of 8 MiB."""


def models_only(root: str, task: str) -> Mapping[str, QoS]:
    """What a client subscribes to that only reads models. Deltas and chunks are subscribed to when they are needed."""
    return subscription("model", root=root, task=task)


class ModelFeed:
    """Reads the newest model from a link. It acknowledges at once, because manifests are retained and come again."""

    def __init__(
        self,
        link: Link,
        *,
        task: str,
        root: str,
        emit: Emit,
        greet: Callable[[], object] = lambda: None,
        trust: ModelTrust | None = None,
        own_line: OwnLine | None = None,
        follow: Follow = lambda _: None,
    ) -> None:
        """`greet` is called on every connection; `trust` decides which manifests are accepted, None: all. Models of a
        line with other labels or fixed buffers than `own_line` are not returned; None: all are. `follow` decides when
        to go on to the next line.
        """
        self.trouble: str | None = "not connected yet"
        """Why there is no connection, in one line; None: there is one."""
        self._link = link
        self._root = root
        self._emit = emit
        self._greet = greet
        self._receiver = ModelReceiver(link, root=root, task=task, trust=trust, follow=follow)
        self._no_model_warning = NoModelWarning(self._receiver, monotonic=time.monotonic, emit=emit)
        self._was_connected = False
        self._told = RepeatFilter()
        self._own_line = own_line
        self._has_fitted = False
        self._refusals = RepeatFilter()

    @property
    def announcement(self) -> Manifest | None:
        """The manifest that arrived last."""
        return self._receiver.announcement

    @property
    def next_line(self) -> str | None:
        """The line to go on to, with another feed; None: this one."""
        return self._receiver.next_line

    @property
    def is_behind(self) -> bool:
        """Whether a newer version has been announced than has arrived."""
        return self._receiver.is_behind

    def newest(self, *, timeout_seconds: float) -> NewModel | None:
        """The newest model that arrived since the last call; waits at most `timeout_seconds` for a message.

        Raises:
            UsageError: the broker refused the first connection.
            LineMismatch: the first model is of a line with other labels or fixed buffers.
            LinkError: the link has died.
        """
        newest = None
        more = True
        while more:
            more = False  # unless messages came: without a broker there is an event each time, without end
            for event in self._link.receive(count=RECEIVE_COUNT, timeout_seconds=timeout_seconds):
                if isinstance(event, Delivery):
                    newest, more, timeout_seconds = self._take(event) or newest, True, 0.0
                else:
                    self._note(event)
        self._receiver.resubscribe()
        self._no_model_warning.look(connected=self.trouble is None)
        return newest

    def _take(self, delivery: Delivery) -> NewModel | None:
        try:
            topic = parse(delivery.topic, root=self._root)
        except TopicError:
            return None  # from a subscription of an earlier program that the broker kept
        finally:
            self._link.ack(delivery)
        taken = self._receiver.take(topic, delivery.payload)
        if isinstance(taken, Rejected):
            self._emit("warning", message=taken.reason)
            return None
        return None if taken is None else self._of_own_line(taken)

    def _of_own_line(self, model: NewModel) -> NewModel | None:
        refusal = None if self._own_line is None else self._own_line.refusal(model.manifest.line)
        if refusal is None:
            self._has_fitted = True
            return model
        if not self._has_fitted:
            raise LineMismatch(refusal)
        if self._refusals.passes(refusal):  # the line changed meanwhile; each of its versions would give a line
            self._emit("warning", message=refusal)
        return None

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
        if self._told.passes(event.reason):  # days without a broker give one line, not one per attempt
            self._emit("disconnected", reason=event.reason)
