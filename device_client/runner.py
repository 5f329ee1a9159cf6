"""The device's main loop: keeps the newest model, trains when allowed, and sends updates until their receipts arrive.

    receive ─▶ newest model (cached) ─▶ train: update and local student into the outbox ─▶ send until the receipt
       ▲                                  │ between batches
       └──────────────────────────────────┘

One thread does everything. Nothing sleeps: every wait is a wait for an event of the link. The program around it creates
the parts, emits `started` and `stopped`, and closes the link and the outbox.
"""

from collections.abc import Callable, Sequence

from msgspec import structs

from device_client.downlink.line_check import LineCheck, OwnLine
from device_client.downlink.lines import Follow
from device_client.downlink.model_trust import ModelTrust
from device_client.downlink.no_model_warning import NoModelWarning
from device_client.downlink.outcome import NewModel, Outcome, Rejected
from device_client.downlink.receiver import ModelReceiver
from device_client.events import Emit, TrafficReport
from device_client.policy.duty_cycle import DutyCycle
from device_client.policy.gate import Gate
from device_client.presence import offline, online, presence_topic
from device_client.runner_settings import Ended, RunnerSettings
from device_client.trainer import Trainer
from device_client.training_schedule import PATIENCE_SECONDS, DeviceMetrics, TrainingSchedule
from device_client.uplink.missing_receipts import MissingReceipts
from device_client.uplink.other_lines import OtherLine
from device_client.uplink.outbox import Outbox
from device_client.uplink.resending import ResendSettings, ResendTimer
from device_client.uplink.uploader import Uploader
from device_client.uplink.write_retry import WriteRetry
from wire_contract import topics
from wire_contract.errors import LineMismatch, LinkError, TopicError
from wire_contract.layout import Layout
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Event, Link
from wire_contract.link.traffic import Traffic
from wire_contract.messages import Receipt, Update
from wire_contract.program.clock import Clock
from wire_contract.program.health import Heartbeat, no_heartbeat
from wire_contract.program.repeat_filter import RepeatFilter
from wire_contract.signatures.signing import SigningKey

EVENTS_MAX = 64
"""Link events handled in one turn, so that a burst of messages does not delay a receipt or a stop."""


class Runner:
    """One running device."""

    def __init__(
        self,
        *,
        task_name: str,
        device: str,
        layout: Layout,
        link: Link,
        root: str,
        outbox: Outbox,
        trainer: Trainer,
        training_unmet: Callable[[], Sequence[str]],
        upload_unmet: Callable[[], Sequence[str]],
        clock: Clock,
        uniform: Callable[[float, float], float],
        emit: Emit,
        settings: RunnerSettings,
        traffic: Callable[[], Traffic] | None = None,
        trust: ModelTrust | None = None,
        follow: Follow = lambda _: None,
        other_lines: Sequence[OtherLine] = (),
        update_signing_key: SigningKey | None = None,
        device_metrics: DeviceMetrics = dict,
        heartbeat: Heartbeat = no_heartbeat,
        own_line: OwnLine | None = None,
    ) -> None:
        """All parts are passed in.

        `layout` is the layout of the task's student, and `own_line` what its outputs and fixed buffers are. `link` is
        subscribed to `presence.subscriptions` and has the will of `presence.will`. `training_unmet` and `upload_unmet`
        return why training or uploading has to wait, one line per reason. `uniform` draws a number evenly between two.
        `traffic` returns what the link has carried so far, if it counts that. `trust` decides which manifests are
        accepted; None: all. `follow` decides when to go on to the next line; `other_lines` have updates that wait.
        With `update_signing_key`, updates are signed. `device_metrics` are sent with every update. `heartbeat` is
        called in every turn, with what keeps the device from working, if anything.
        """
        self._task = task_name
        self._device = device
        self._line_check = LineCheck(layout, own_line, task=task_name)
        self._link = link
        self._root = root
        self._outbox = outbox
        self._monotonic = clock.monotonic
        self._training_unmet = training_unmet
        self._emit = emit
        self._model_topic = topics.build("model", root=root, task=task_name)
        self._presence_topic = presence_topic(root, task_name, device)
        self._firmware, self._capability = settings.firmware, settings.capability
        self._discarded = ""
        """Why the last round was discarded; empty: it was not."""
        self._offline = offline(settings.firmware)
        self._writes = WriteRetry(monotonic=clock.monotonic, emit=emit)
        self._missing_receipts = MissingReceipts(
            link, root=root, task=task_name, device=device, monotonic=clock.monotonic, emit=emit
        )
        self._uploader = Uploader(
            root=root,
            task=task_name,
            device=device,
            link=link,
            outbox=outbox,
            timer=ResendTimer(
                ResendSettings(
                    receipt_timeout_seconds=settings.receipt_timeout_seconds,
                    backoff_max_seconds=settings.resend_delay_max_seconds,
                ),
                uniform=uniform,
            ),
            gate=Gate("upload", upload_unmet, monotonic=clock.monotonic, emit=emit),
            writes=self._writes,
            missing_receipts=self._missing_receipts,
            monotonic=clock.monotonic,
            emit=emit,
            unknown_base=self._take_unknown_base,
        )
        self._schedule = TrainingSchedule(
            task=task_name,
            outbox=outbox,
            trainer=trainer,
            gate=Gate("training", self._no_training, monotonic=clock.monotonic, emit=emit),
            duty_cycle=DutyCycle(settings.duty_cycle, monotonic=clock.monotonic),
            writes=self._writes,
            clock=clock,
            emit=emit,
            turn=self._turn,
            encoding=settings.encoding,
            local_rounds_max=settings.local_rounds_max,
            retrain_after_seconds=settings.retrain_after_seconds,
            signing_key=update_signing_key,
            device_metrics=device_metrics,
            discarded=self._note_discarded,
        )
        self._receiver = ModelReceiver(
            link, root=root, task=task_name, trust=trust, follow=follow, monotonic=clock.monotonic, uniform=uniform
        )
        self._no_model_warning = NoModelWarning(self._receiver, monotonic=clock.monotonic, emit=emit)
        self._pinned = frozenset[bytes]() if trust is None else trust.key_ids
        self._other_lines = other_lines
        self._heartbeat = heartbeat
        self._disconnect_reason = "not yet"
        """Why there is no connection, while there is none."""
        self._postponed: list[Delivery] = []
        """Not acknowledged yet, because the disk does not take what must be written first."""
        self._uncached: NewModel | None = None
        """The newest model, while the disk has not taken it."""
        self._connected = False
        self._ever_connected = False
        self._told = RepeatFilter(clock.monotonic)
        self._ended: Ended | None = None
        self._traffic = TrafficReport(traffic, settings.traffic_seconds, monotonic=clock.monotonic, emit=emit)

    def stop(self) -> None:
        """Makes `run` return soon, even in the middle of a round. Takes no lock, so a signal handler may call it."""
        self._ended = self._ended or Ended("asked to stop")

    def run(self) -> Ended:
        """Runs until it is stopped, or until the broker refuses the first connection.

        Raises:
            OutboxError: the outbox can no longer be read, or was removed. A full disk is no error: it is waited for.
            LinkError: the link itself has died.
        """
        cached = self._outbox.model(pinned=self._pinned)
        refusal = None if cached is None else self._line_check.refusal(cached.line)
        if refusal is not None:
            self._emit("warning", message=f"the model kept on this device is not used: {refusal}")
        elif cached is not None:
            self._take_model(self._receiver.restore(cached), is_cached=True)
        while self._turn(PATIENCE_SECONDS):
            held = self._receiver.held
            is_base = held is not None and self._line_check.is_fitting and not self._receiver.is_disowned
            todo = self._schedule.due(held.published) if held is not None and is_base else None
            if todo is not None:
                self._schedule.train(todo)
        assert self._ended is not None
        if self._connected:
            self._publish_presence(self._offline)
        self._traffic.emit(at_once=True)
        return self._ended

    def _turn(self, patience_seconds: float) -> bool:
        """Handles events of the link, waiting at most that long, and sends what is due. Returns whether to go on."""
        trouble = "" if self._connected else f"no connection to the broker: {self._disconnect_reason}"
        self._heartbeat(trouble=trouble or self._writes.trouble)
        for event in self._link.receive(count=EVENTS_MAX, timeout_seconds=patience_seconds):
            self._handle(event)
        self._catch_up()
        self._receiver.resubscribe()
        if self._ended is None and self._receiver.held is not None and not self._line_check.is_foreign:
            self._uploader.send(self._receiver.held.manifest)
        for other in self._other_lines:
            other.turn()
        if self._receiver.next_line is not None:
            self._leave(self._receiver.next_line)
        self._no_model_warning.look(connected=self._connected)
        self._missing_receipts.look()
        self._traffic.emit()
        return self._ended is None

    def _handle(self, event: Event) -> None:
        match event:
            case Connected(session_present=session_present):
                self._connected = self._ever_connected = True
                self._told.resolve()
                self._postponed.clear()  # the broker delivers again what was not acknowledged
                self._emit("connected", session_present=session_present)
                self._publish_presence(self._online())
                self._uploader.connected(session_present=session_present)
                for other in self._other_lines:
                    other.connected(session_present=session_present)
            case Disconnected(reason=reason, refused=refused):
                self._connected, self._disconnect_reason = False, reason
                self._uploader.disconnected()
                for other in self._other_lines:
                    other.disconnected()
                if refused and not self._ever_connected:
                    self._ended = self._ended or Ended(reason, refused=True)
                elif self._told.passes(reason):  # days without a broker give one line, not one per attempt
                    self._emit("disconnected", reason=reason)
            case Delivery():
                if self._deliver(event):
                    self._link.ack(event)  # last: by now everything that must be durable is on disk
                else:
                    self._postpone(event)

    def _no_training(self) -> Sequence[str]:
        """Why training has to wait."""
        return (*self._training_unmet(), *self._receiver.ended)

    def _postpone(self, delivery: Delivery) -> None:
        """Keeps a delivery unacknowledged, to be handled later; of manifests only the newest, or they would pile up."""
        if delivery.topic == self._model_topic:
            for older in [one for one in self._postponed if one.topic == delivery.topic]:
                self._postponed.remove(older)
                self._link.ack(older)
        self._postponed.append(delivery)

    def _catch_up(self) -> None:
        """Does what was waiting for the disk, as soon as it takes writes again."""
        deliveries, self._postponed = self._postponed, []
        for delivery in deliveries:
            self._handle(delivery)
        self._uploader.record()
        self._cache()

    def _deliver(self, delivery: Delivery) -> bool:
        """Handles a message; returns whether it may be acknowledged."""
        try:
            topic = topics.parse(delivery.topic, root=self._root)
        except TopicError:
            return True  # a session left by an older version may hold other subscriptions
        if topic.task != self._task:
            others = [other for other in self._other_lines if other.line == topic.task]
            return all(other.take(topic, delivery.topic, delivery.payload) for other in others)
        match topic.kind:
            case "model":  # the trusted version is saved before the model is used
                take = lambda: self._take_model(self._receiver.take(topic, delivery.payload))  # noqa: E731
                return self._writes.try_write("trust", take)
            case "delta" | "chunk":
                self._take_model(self._receiver.take(topic, delivery.payload))
            case "aggregator":
                self._missing_receipts.heard(delivery.topic, delivery.payload)
            case "receipt" if topic.device == self._device:
                return self._uploader.receipt(delivery.payload)
            case _:
                pass
        return True

    def _take_model(self, outcome: Outcome, *, is_cached: bool = False) -> None:
        match outcome:
            case Rejected(reason=reason):
                self._emit("warning", message=reason)
            case NewModel(published=published, manifest=manifest) as model:
                try:
                    warning = self._line_check.look(model)
                except LineMismatch as error:
                    self._ended = self._ended or Ended(str(error), refused=True)
                    return
                if (
                    self._line_check.is_fitting and not is_cached
                ):  # a model of another layout must not replace the usable one
                    self._uncached = model
                    self._cache()
                self._emit("model", version=published.version, bytes=manifest.size_bytes)
                if warning is not None:
                    self._emit("warning", message=warning)
            case None:
                pass

    def _take_unknown_base(self, update: Update, receipt: Receipt) -> None:
        """The aggregator does not know the base of an update. If that is the held version, its model line has ended, or
        the aggregator runs on an older ledger: the device then follows whatever the aggregator announces.
        """
        held = self._receiver.held
        base = (update.base_version, update.base_digest)
        if held is None or self._receiver.is_disowned or base != (held.published.version, held.published.digest):
            return
        self._emit(
            "warning",
            message=f"the aggregator is at version {receipt.version} and does not know version {base[0]}, which this "
            "device holds: it runs with another ledger, or an older one; this device switches to what the aggregator "
            "announces next",
        )
        self._uncached = None
        self._writes.try_write("model", self._outbox.drop_model)  # or a restart would return to it
        self._take_model(self._receiver.disown(*base))

    def _cache(self) -> None:
        """Saves the newest model, for a start without a broker."""
        model = self._uncached
        if model is None:
            return
        if self._writes.try_write("model", lambda: self._outbox.save_model(model.manifest, pinned=self._pinned)):
            self._uncached = None

    def _leave(self, next_line: str) -> None:
        """Ends the run, to go on with the next line. A line that has ended is cached as such, so that a restart without
        a broker does not train for it.
        """
        held = self._receiver.held
        if held is not None and self._line_check.is_fitting:
            self._uncached = NewModel(held.published, structs.replace(held.manifest, closed=True))
            self._cache()
        self._ended = self._ended or Ended(f"line {self._task} is followed by {next_line}", next_line=next_line)

    def _online(self) -> bytes:
        trouble = {"discarded": self._discarded} if self._discarded else {}
        return online(self._firmware, {**self._capability, **trouble})

    def _note_discarded(self, reason: str) -> None:
        if reason != self._discarded:
            self._discarded = reason
            if self._connected:
                self._publish_presence(self._online())

    def _publish_presence(self, payload: bytes) -> None:
        try:
            self._link.publish(self._presence_topic, payload, retain=True)
        except LinkError as error:
            self._emit("warning", message=f"presence: {error}")
