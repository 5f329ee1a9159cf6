"""The device's one loop: keeps the newest model, trains when it may, and sends what it learned until a receipt comes.

    receive ─▶ newest model (cached) ─▶ study: update + local student into the outbox ─▶ courier: send, receipt
       ▲                                  │ between batches
       └──────────────────────────────────┘

One thread does everything. Nothing sleeps: every wait is a wait for the link. The program around it makes the parts,
tells `started` and `stopped`, and closes the link and the outbox.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from device_client.downlink.model_trust import ModelTrust
from device_client.downlink.no_model_warning import FirstModel
from device_client.downlink.outcome import NewModel, Outcome, Rejected
from device_client.downlink.receiver import Downlink
from device_client.events import Emit
from device_client.policy.duty_cycle import Pace
from device_client.policy.gate import Gate
from device_client.presence import offline, online, presence_topic, this_firmware
from device_client.trainer import Trainer
from device_client.training_schedule import PATIENCE_SECONDS, Study, Vitals
from device_client.uplink.missing_receipts import Silence
from device_client.uplink.outbox import Outbox
from device_client.uplink.resending import Sender, SenderSettings
from device_client.uplink.uploader import Courier
from device_client.uplink.write_retry import Disk
from wire_contract import topics
from wire_contract.compression.choice import EncodingChoice
from wire_contract.errors import LinkError, TopicError
from wire_contract.layout import Layout
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Event, Link
from wire_contract.link.traffic import Traffic
from wire_contract.messages import Receipt, Update
from wire_contract.program.clock import Clock
from wire_contract.program.health import Heartbeat, no_heartbeat
from wire_contract.program.repeated_complaints import Told
from wire_contract.signatures.signing import SigningKey

EVENTS_MAX = 64
"""Link events handled in one go."""


@dataclass(frozen=True, kw_only=True)
class RunnerSettings:
    """How one device behaves."""

    encoding: EncodingChoice = "int8"
    """Of the updates."""
    local_rounds_max: int = 4
    """Rounds on one base."""
    retrain_after_seconds: float = 60.0
    """Rest before a further round on the same base."""
    receipt_timeout_seconds: float = 30.0
    """So long a receipt is waited for before the update is sent again."""
    resend_delay_max_seconds: float = 300.0
    """The rests before sending again grow up to this."""
    duty_cycle: float = 1.0
    """Share of the training time that is spent computing, 0 < d ≤ 1."""
    traffic_seconds: float = 10.0
    """The traffic is told at most so often."""
    firmware: str = field(default_factory=this_firmware)
    """In the presence."""
    capability: dict[str, str] = field(default_factory=dict)
    """In the presence: what the device can do, by name."""


@dataclass(frozen=True)
class Ended:
    """Why `run` returned."""

    reason: str
    """One line for a person."""
    refused: bool = False
    """The broker said no before it ever said yes: trying again will not help."""


class Runner:
    """One device at work."""

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
        update_signing_key: SigningKey | None = None,
        vitals: Vitals = dict,
        heartbeat: Heartbeat = no_heartbeat,
    ) -> None:
        """Everything is handed in.

        `layout` is of the task's student. `link` is subscribed to `presence.subscriptions` and has the will of
        `presence.will`. `training_unmet` and `upload_unmet` say why that has to wait, one line each, or nothing.
        `uniform` draws a number evenly between two. `traffic` is what the link has carried so far, if it knows.
        `trust` says which manifests are used, None: any. Updates are signed where there is a key, and tell `vitals`.
        `heartbeat` is told in every turn that the loop moves, and what keeps it from its work.
        """
        self._task = task_name
        self._device = device
        self._layout = layout
        self._link = link
        self._root = root
        self._outbox = outbox
        self._monotonic = clock.monotonic
        self._emit = emit
        self._model_topic = topics.build("model", root=root, task=task_name)
        self._presence_topic = presence_topic(root, task_name, device)
        self._online = online(settings.firmware, settings.capability)
        self._offline = offline(settings.firmware)
        self._disk = Disk(monotonic=clock.monotonic, emit=emit)
        self._silence = Silence(link, root=root, task=task_name, device=device, monotonic=clock.monotonic, emit=emit)
        self._courier = Courier(
            root=root,
            task=task_name,
            device=device,
            link=link,
            outbox=outbox,
            sender=Sender(
                SenderSettings(
                    receipt_timeout_seconds=settings.receipt_timeout_seconds,
                    backoff_max_seconds=settings.resend_delay_max_seconds,
                ),
                uniform=uniform,
            ),
            gate=Gate("upload", upload_unmet, monotonic=clock.monotonic, emit=emit),
            disk=self._disk,
            silence=self._silence,
            monotonic=clock.monotonic,
            emit=emit,
            unknown_base=self._take_unknown_base,
        )
        self._study = Study(
            task=task_name,
            outbox=outbox,
            trainer=trainer,
            gate=Gate("training", training_unmet, monotonic=clock.monotonic, emit=emit),
            pace=Pace(settings.duty_cycle, monotonic=clock.monotonic),
            disk=self._disk,
            clock=clock,
            emit=emit,
            turn=self._turn,
            encoding=settings.encoding,
            local_rounds_max=settings.local_rounds_max,
            retrain_after_seconds=settings.retrain_after_seconds,
            signing_key=update_signing_key,
            vitals=vitals,
        )
        self._downlink = Downlink(
            link, root=root, task=task_name, trust=trust, monotonic=clock.monotonic, uniform=uniform
        )
        self._first_model = FirstModel(self._downlink, monotonic=clock.monotonic, emit=emit)
        self._pinned = frozenset[bytes]() if trust is None else trust.key_ids
        self._fits = False
        self._heartbeat = heartbeat
        self._unreachable = "not yet"
        """Why there is no connection, while there is none."""
        self._waiting_for_disk: list[Delivery] = []
        """Not acknowledged, because the disk does not take what has to be written down first."""
        self._uncached: NewModel | None = None
        """A model that the disk has not taken yet."""
        self._connected = False
        self._ever_connected = False
        self._told = Told(clock.monotonic)
        self._ended: Ended | None = None
        self._traffic = traffic
        self._traffic_seconds = settings.traffic_seconds
        self._traffic_told = Traffic()
        self._traffic_told_at = clock.monotonic()

    def stop(self) -> None:
        """Ends `run` soon, a round under way included. From a signal handler or any thread: it takes no lock."""
        self._ended = self._ended or Ended("asked to stop")

    def run(self) -> Ended:
        """Works until stopped or refused.

        Raises:
            OutboxError: the outbox can no longer be read, or was taken away; a full disk is waited for.
            LinkError: the link itself has died.
        """
        cached = self._outbox.model(pinned=self._pinned)
        if cached is not None:
            self._take_model(self._downlink.restore(cached), is_cached=True)
        while self._turn(PATIENCE_SECONDS):
            held = self._downlink.held
            is_base = held is not None and self._fits and not self._downlink.is_disowned
            todo = self._study.due(held.published) if held is not None and is_base else None
            if todo is not None:
                self._study.make(todo)
        assert self._ended is not None
        if self._connected:
            self._publish_presence(self._offline)
        self._tell_traffic(at_once=True)
        return self._ended

    def _turn(self, patience_seconds: float) -> bool:
        """Handles what the link brings, waiting so long at most, and sends what is due. Whether to go on."""
        trouble = "" if self._connected else f"no connection to the broker: {self._unreachable}"
        self._heartbeat(trouble=trouble or self._disk.trouble)
        for event in self._link.receive(count=EVENTS_MAX, timeout_seconds=patience_seconds):
            self._handle(event)
        self._catch_up()
        self._downlink.renew()
        if self._ended is None and self._downlink.held is not None:
            self._courier.send(self._downlink.held.manifest)
        self._first_model.look(connected=self._connected)
        self._silence.look()
        self._tell_traffic()
        return self._ended is None

    def _handle(self, event: Event) -> None:
        match event:
            case Connected(session_present=session_present):
                self._connected = self._ever_connected = True
                self._told.mended()
                self._waiting_for_disk.clear()  # what is not acknowledged comes again
                self._emit("connected", session_present=session_present)
                self._publish_presence(self._online)
                self._courier.connected(session_present=session_present)
            case Disconnected(reason=reason, refused=refused):
                self._connected, self._unreachable = False, reason
                self._courier.disconnected()
                if refused and not self._ever_connected:
                    self._ended = self._ended or Ended(reason, refused=True)
                elif self._told.is_news(reason):  # days without a broker are one line, not one an attempt
                    self._emit("disconnected", reason=reason)
            case Delivery():
                if self._deliver(event):
                    self._link.ack(event)  # last: by now all that must be durable is
                else:
                    self._put_off(event)

    def _put_off(self, delivery: Delivery) -> None:
        """Not acknowledged, and done later. Of manifests only the newest is worth it, so that they do not pile up."""
        if delivery.topic == self._model_topic:
            for older in [one for one in self._waiting_for_disk if one.topic == delivery.topic]:
                self._waiting_for_disk.remove(older)
                self._link.ack(older)
        self._waiting_for_disk.append(delivery)

    def _catch_up(self) -> None:
        """Does what the disk did not take before, as soon as it does."""
        deliveries, self._waiting_for_disk = self._waiting_for_disk, []
        for delivery in deliveries:
            self._handle(delivery)
        self._courier.record()
        self._cache()

    def _deliver(self, delivery: Delivery) -> bool:
        """Whether it may be acknowledged."""
        try:
            topic = topics.parse(delivery.topic, root=self._root)
        except TopicError:
            return True  # the session of an older program may hold other subscriptions
        if topic.task != self._task:
            return True
        match topic.kind:
            case "model":  # that a key vouched for it is written down before it is used
                take = lambda: self._take_model(self._downlink.take(topic, delivery.payload))  # noqa: E731
                return self._disk.takes("trust", take)
            case "delta" | "chunk":
                self._take_model(self._downlink.take(topic, delivery.payload))
            case "aggregator":
                self._silence.heard(delivery.topic, delivery.payload)
            case "receipt" if topic.device == self._device:
                return self._courier.receipt(delivery.payload)
            case _:
                pass
        return True

    def _take_model(self, outcome: Outcome, *, is_cached: bool = False) -> None:
        match outcome:
            case Rejected(reason=reason):
                self._emit("warning", message=reason)
            case NewModel(published=published, manifest=manifest) as model:
                self._fits = published.layout.fingerprint == self._layout.fingerprint
                if self._fits and not is_cached:  # a model of other people must not push out the one to work with
                    self._uncached = model
                    self._cache()
                self._emit("model", version=published.version, bytes=manifest.size_bytes)
                if not self._fits:
                    self._emit("warning", message=self._misfit(published.version, published.layout))
            case None:
                pass

    def _take_unknown_base(self, update: Update, receipt: Receipt) -> None:
        """The aggregator does not know the version that an update was made on. If that is the held one, the line that
        it belongs to is over, or the aggregator's ledger is an older one.
        """
        held = self._downlink.held
        base = (update.base_version, update.base_digest)
        if held is None or self._downlink.is_disowned or base != (held.published.version, held.published.digest):
            return
        self._emit(
            "warning",
            message=f"the aggregator's line is at version {receipt.version}, and it does not know version {base[0]} "
            "that this device holds: it goes on with another ledger, or an older one; this device goes over to what "
            "the aggregator announces next",
        )
        self._uncached = None
        self._disk.takes("model", self._outbox.drop_model)  # or a restart would hold on to it
        self._take_model(self._downlink.disown(*base))

    def _cache(self) -> None:
        """Keeps the newest model for a start without a broker."""
        model = self._uncached
        if model is None:
            return
        if self._disk.takes("model", lambda: self._outbox.save_model(model.manifest, pinned=self._pinned)):
            self._uncached = None

    def _misfit(self, version: int, layout: Layout) -> str:
        return (
            f"model {version} has another layout than the student of task {self._task} here ({layout.size} numbers in "
            f"{len(layout.tensors)} tensors, not {self._layout.size} in {len(self._layout.tensors)}); nothing is "
            "trained until one comes that fits"
        )

    def _publish_presence(self, payload: bytes) -> None:
        try:
            self._link.publish(self._presence_topic, payload, retain=True)
        except LinkError as error:
            self._emit("warning", message=f"presence: {error}")

    def _tell_traffic(self, *, at_once: bool = False) -> None:
        now = self._monotonic()
        if self._traffic is None or not (at_once or now - self._traffic_told_at >= self._traffic_seconds):
            return
        self._traffic_told_at, traffic = now, self._traffic()
        if traffic != self._traffic_told:
            self._traffic_told = traffic
            self._emit("traffic", bytes_in=traffic.bytes_in, bytes_out=traffic.bytes_out)
