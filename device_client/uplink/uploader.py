"""Carries updates from the outbox to the aggregator: the oldest first, one at a time, until its receipt.

Order of what must survive a kill: attempt counted → sent → receipt → removed from the outbox → receipt acknowledged to
the broker (by the caller). A receipt that comes twice finds nothing and is ignored; an update that is sent twice is a
duplicate to the aggregator.

On a full disk updates go on being sent, the next one as soon as the one before has its receipt. That an update was
merged need not be written down before its receipt is acknowledged: after a restart it would be sent again, and be a
duplicate. That one was refused has to be, or its content would be lost.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from device_client.events import Emit
from device_client.policy.gate import Gate
from device_client.uplink.missing_receipts import Silence
from device_client.uplink.outbox import Entry, Outbox
from device_client.uplink.outbox_errors import OutboxBlocked
from device_client.uplink.resending import Sender, Verdict, verdict
from device_client.uplink.write_retry import Disk
from wire_contract import codec, topics
from wire_contract.errors import DecodeError, LinkError, PayloadTooLarge
from wire_contract.link.protocol import Link
from wire_contract.messages import OTHER, Manifest, Receipt, Update
from wire_contract.signatures.envelope import read


class Courier:
    """The sending half of a device."""

    def __init__(
        self,
        *,
        root: str,
        task: str,
        device: str,
        link: Link,
        outbox: Outbox,
        sender: Sender,
        gate: Gate,
        disk: Disk,
        silence: Silence,
        monotonic: Callable[[], float],
        emit: Emit,
        unknown_base: Callable[[Update, Receipt], None],
    ) -> None:
        """`unknown_base` hears of an update whose base the aggregator does not know."""
        self._root = root
        self._task = task
        self._device = device
        self._link = link
        self._outbox = outbox
        self._sender = sender
        self._gate = gate
        self._disk = disk
        self._silence = silence
        self._monotonic = monotonic
        self._emit = emit
        self._unknown_base = unknown_base

    def connected(self, *, session_present: bool) -> None:
        self._sender.connected(self._monotonic(), session_present=session_present)

    def disconnected(self) -> None:
        self._sender.disconnected()
        self._silence.disconnected()

    def send(self, manifest: Manifest) -> None:
        """Sends the oldest update if it is due and may be sent.

        Args:
            manifest: the newest; it says how many shards there are and how large an update may be.
        """
        now = self._monotonic()
        if not self._sender.is_due(now) or not len(self._outbox) or not self._gate.is_open():
            return
        entry = self._outbox.head()
        assert entry is not None
        size_bytes = len(entry.payload)
        if size_bytes > manifest.update_bytes_max:
            self._give_up(entry, f"{size_bytes} bytes, the aggregator takes {manifest.update_bytes_max}")
            return
        shard = topics.shard_of(self._device, manifest.shards)
        topic = topics.build("update", root=self._root, task=self._task, shard=shard, device=self._device)
        entry = self._attempted(entry)
        try:
            self._link.publish(topic, entry.payload)
        except PayloadTooLarge as error:
            self._give_up(entry, str(error))
        except LinkError as error:
            self._sender.not_taken(now)
            self._emit("warning", message=f"update {entry.identity.sequence} is not sent now: {error}")
        else:
            self._sender.sent(entry.identity.sequence, now)
            self._silence.sent(shard)
            self._emit("sent", sequence=entry.identity.sequence, attempt=entry.attempts, bytes=size_bytes)

    def receipt(self, payload: bytes) -> bool:
        """A message of the receipt topic. Receipts of updates that are not in the outbox say nothing new.

        Returns:
            Whether it may be acknowledged; else it is to be offered here again.
        """
        try:
            receipt = codec.decode(payload, Receipt)
        except DecodeError as error:
            self._emit("warning", message=f"a receipt could not be read: {error}")
            return True
        self._silence.broken()
        entry = self._meant(receipt)
        if entry is None:
            return True
        fate = verdict(receipt)
        if fate == "later":
            self._sender.deferred(entry.identity.sequence, self._monotonic())
            self._tell(entry, receipt, fate)
            return True
        if self._settle(entry, untold=fate == "retell"):
            self._tell(entry, receipt, fate)
            if receipt.reason == "unknown_base":
                with suppress(DecodeError):  # of an older program, in a form that is no longer read
                    self._unknown_base(read(entry.payload, Update), receipt)
        return self.record() or receipt.outcome != "refused"

    def record(self) -> bool:
        """Writes down what became of updates, if there is anything to write. Whether all of it is written."""
        return self._outbox.is_recorded or self._disk.takes("receipts", self._outbox.record)

    def _settle(self, entry: Entry, *, untold: bool) -> bool:
        """Whether that is new."""
        sequence = entry.identity.sequence
        is_new = self._outbox.settle(sequence, untold=untold)
        if is_new:
            self._sender.settled(sequence, self._monotonic())
        return is_new

    def _tell(self, entry: Entry, receipt: Receipt, fate: Verdict) -> None:
        sequence = entry.identity.sequence
        self._emit(
            "receipt",
            sequence=sequence,
            outcome=receipt.outcome,
            version=receipt.version,
            weight=receipt.weight,
            staleness=receipt.staleness,
            reason=receipt.reason,
        )
        if receipt.outcome == "refused":
            detail = f" ({receipt.detail})" if receipt.detail else ""
            self._emit("warning", message=f"update {sequence} was refused: {receipt.reason}{detail}; {_ENDINGS[fate]}")
        elif receipt.outcome == OTHER:
            self._emit(
                "warning",
                message=f"update {sequence} was answered in a way that this version does not know ({receipt.detail}); "
                "it is not sent again",
            )

    def _attempted(self, entry: Entry) -> Entry:
        try:
            return self._outbox.attempted(entry)
        except OutboxBlocked:  # a count that is too low after a restart harms nobody
            return replace(entry, attempts=entry.attempts + 1)

    def _meant(self, receipt: Receipt) -> Entry | None:
        """The update that a receipt is about; an aggregator that could not read it names its payload only."""
        if receipt.incarnation:
            return self._outbox.find(receipt.sequence) if receipt.incarnation == self._outbox.incarnation else None
        return self._outbox.find_payload(receipt.payload_digest) if receipt.payload_digest else None

    def _give_up(self, entry: Entry, reason: str) -> None:
        """What can never be sent must not be tried for ever, nor stand in the way of the next."""
        self._settle(entry, untold=True)
        self.record()
        self._emit(
            "warning",
            message=f"update {entry.identity.sequence} is too large and is dropped: {reason}; {_ENDINGS['retell']}",
        )


_ENDINGS: Mapping[Verdict, str] = {
    "later": "it is sent again later",
    "retell": "what it told is told again by the next one",
    "done": "it is dropped",
}
