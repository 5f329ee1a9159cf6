"""What waits in the outboxes of other lines of the task: a device has moved on, or went back to an older program.

Each update belongs to the line whose model it was trained on, and can be merged only there. So it is sent there, under
the identity that it has, until its receipt arrives. Nothing is trained for these lines.
"""

from collections.abc import Callable, Sequence

from device_client.downlink.model_trust import ModelTrust
from device_client.events import Emit
from device_client.policy.gate import Gate
from device_client.presence import subscriptions
from device_client.uplink.missing_receipts import MissingReceipts
from device_client.uplink.outbox import Outbox
from device_client.uplink.resending import ResendTimer
from device_client.uplink.uploader import Uploader
from device_client.uplink.write_retry import WriteRetry
from wire_contract.errors import DecodeError
from wire_contract.link.protocol import Link
from wire_contract.messages import Manifest
from wire_contract.signatures.envelope import read_unverified
from wire_contract.topics import ParsedTopic


class OtherLine:
    """Empties one such outbox."""

    def __init__(
        self,
        line: str,
        outbox: Outbox,
        *,
        root: str,
        device: str,
        link: Link,
        trust: ModelTrust | None,
        timer: ResendTimer,
        upload_unmet: Callable[[], Sequence[str]],
        monotonic: Callable[[], float],
        emit: Emit,
    ) -> None:
        """Subscribes to that line's manifests and receipts. `trust` decides which manifests are accepted; None: all."""
        self.line = line
        self._outbox, self._trust = outbox, trust
        self._link = link
        self._filters = subscriptions(root, line, device)
        self._missing_receipts = MissingReceipts(
            link, root=root, task=line, device=device, monotonic=monotonic, emit=emit
        )
        self._writes = WriteRetry(monotonic=monotonic, emit=emit)
        self._uploader = Uploader(
            root=root,
            task=line,
            device=device,
            link=link,
            outbox=outbox,
            timer=timer,
            gate=Gate("upload", upload_unmet, monotonic=monotonic, emit=_say_nothing),  # the current line's gate tells
            writes=self._writes,
            missing_receipts=self._missing_receipts,
            monotonic=monotonic,
            emit=emit,
            unknown_base=lambda _update, _receipt: None,
        )
        self._manifest: Manifest | None = None
        self.is_done = False
        """Every update has its receipt."""
        for topic_filter, qos in self._filters.items():
            link.subscribe(topic_filter, qos=qos)

    def connected(self, *, session_present: bool) -> None:
        self._uploader.connected(session_present=session_present)

    def disconnected(self) -> None:
        self._uploader.disconnected()

    def take(self, topic: ParsedTopic, name: str, payload: bytes) -> bool:
        """Takes a message of that line, on the topic `name`. Returns whether it may be acknowledged."""
        match topic.kind:
            case "model" if payload:  # the trusted version is saved before the manifest is used
                return self._writes.try_write("trust", lambda: self._read(payload))
            case "aggregator":
                self._missing_receipts.heard(name, payload)
            case "receipt":
                return self._uploader.receipt(payload)
            case _:
                pass
        return True

    def turn(self) -> None:
        """Sends what is due. When nothing waits any more, ends the subscriptions."""
        if self.is_done:
            return
        if self._uploader.record() and not len(self._outbox):
            self.is_done = True
            self._missing_receipts.disconnected()
            for topic_filter in self._filters:
                self._link.unsubscribe(topic_filter)
            return
        if self._manifest is not None:
            self._uploader.send(self._manifest)
        self._missing_receipts.look()

    def _read(self, payload: bytes) -> None:
        """Takes the number of shards and the size limit from a manifest; the model is of no use here."""
        try:
            manifest = read_unverified(payload, Manifest) if self._trust is None else self._trust.read(payload)
        except DecodeError:
            return
        if manifest.task == self.line:
            self._manifest = manifest


def _say_nothing(event: str, **fields: object) -> None:
    """Drops the event."""
