"""Sends updates from the outbox to the aggregator: oldest first, one at a time, each until its receipt arrives.

The order that makes it safe against kills: count the attempt → send → receive the receipt → delete from the outbox →
acknowledge the receipt to the broker (done by the caller). A receipt that comes twice finds nothing and is ignored; an
update that is sent twice is a duplicate for the aggregator.

On a full disk updates are still sent, the next one as soon as the one before has its receipt. A merge need not be on
the disk before its receipt is acknowledged: after a restart the update would be sent again, and be a duplicate. A
refusal must be, or the content of the update would be lost.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from device_client.events import Emit
from device_client.policy.gate import Gate
from device_client.uplink.missing_receipts import MissingReceipts
from device_client.uplink.outbox import Outbox
from device_client.uplink.outbox_errors import OutboxBlocked
from device_client.uplink.outbox_rows import Entry
from device_client.uplink.resending import ResendTimer, Verdict, verdict
from device_client.uplink.write_retry import WriteRetry
from wire_contract import codec, topics
from wire_contract.errors import DecodeError, LinkError, PayloadTooLarge
from wire_contract.link.protocol import Link
from wire_contract.message_fields import OTHER
from wire_contract.messages import Manifest, Receipt, Update
from wire_contract.signatures.envelope import read_unverified


class Uploader:
    """The sending side of a device."""

    def __init__(
        self,
        *,
        root: str,
        task: str,
        device: str,
        link: Link,
        outbox: Outbox,
        timer: ResendTimer,
        gate: Gate,
        writes: WriteRetry,
        missing_receipts: MissingReceipts,
        monotonic: Callable[[], float],
        emit: Emit,
        unknown_base: Callable[[Update, Receipt], None],
    ) -> None:
        """`unknown_base` is called with an update whose base the aggregator does not know, and its receipt."""
        self._root = root
        self._task = task
        self._device = device
        self._link = link
        self._outbox = outbox
        self._timer = timer
        self._gate = gate
        self._writes = writes
        self._missing_receipts = missing_receipts
        self._monotonic = monotonic
        self._emit = emit
        self._unknown_base = unknown_base

    def connected(self, *, session_present: bool) -> None:
        self._timer.connected(self._monotonic(), session_present=session_present)

    def disconnected(self) -> None:
        self._timer.disconnected()
        self._missing_receipts.disconnected()

    def send(self, manifest: Manifest) -> None:
        """Sends the oldest update if it is due and may be sent.

        Args:
            manifest: the newest; it states the number of shards and the size limit of an update.
        """
        now = self._monotonic()
        if not self._timer.is_due(now) or not len(self._outbox) or not self._gate.is_open():
            return
        entry = self._outbox.head()
        assert entry is not None
        size_bytes = len(entry.payload)
        if size_bytes > manifest.update_bytes_max:
            self._give_up(entry, f"{size_bytes} bytes, the aggregator accepts {manifest.update_bytes_max}")
            return
        shard = topics.shard_of(self._device, manifest.shards)
        topic = topics.build("update", root=self._root, task=self._task, shard=shard, device=self._device)
        entry = self._attempted(entry)
        try:
            self._link.publish(topic, entry.payload)
        except PayloadTooLarge as error:
            self._give_up(entry, str(error))
        except LinkError as error:
            self._timer.not_accepted(now)
            self._emit("warning", message=f"update {entry.identity.sequence} cannot be sent now: {error}")
        else:
            self._timer.sent(entry.identity.sequence, now)
            self._missing_receipts.sent(shard)
            self._emit("sent", sequence=entry.identity.sequence, attempt=entry.attempts, bytes=size_bytes)

    def receipt(self, payload: bytes) -> bool:
        """A message of the receipt topic. Receipts for updates that are not in the outbox are ignored.

        Returns:
            Whether it may be acknowledged; if not, it is to be passed here again later.
        """
        try:
            receipt = codec.decode(payload, Receipt)
        except DecodeError as error:
            self._emit("warning", message=f"a receipt could not be read: {error}")
            return True
        self._missing_receipts.received()
        entry = self._update_of(receipt)
        if entry is None:
            return True
        decision = verdict(receipt)
        if decision == "later":
            self._timer.deferred(entry.identity.sequence, self._monotonic())
            self._report(entry, receipt, decision)
            return True
        if self._settle(entry, carry_over=decision == "carry_over"):
            self._report(entry, receipt, decision)
            if receipt.reason == "unknown_base":
                with suppress(DecodeError):  # an update of an older program, in a form that can no longer be decoded
                    self._unknown_base(read_unverified(entry.payload, Update), receipt)
        return self.record() or receipt.outcome != "refused"

    def record(self) -> bool:
        """Writes settled updates to the disk, if there are any. Returns whether all of them are written."""
        return self._outbox.is_recorded or self._writes.try_write("receipts", self._outbox.record)

    def _settle(self, entry: Entry, *, carry_over: bool) -> bool:
        """Returns whether the update was not settled before."""
        sequence = entry.identity.sequence
        is_new = self._outbox.settle(sequence, carry_over=carry_over)
        if is_new:
            self._timer.settled(sequence, self._monotonic())
        return is_new

    def _report(self, entry: Entry, receipt: Receipt, decision: Verdict) -> None:
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
            self._emit(
                "warning", message=f"update {sequence} was refused: {receipt.reason}{detail}; {_ENDINGS[decision]}"
            )
        elif receipt.outcome == OTHER:
            self._emit(
                "warning",
                message=f"update {sequence}: the answer {receipt.detail!r} is not known to this version; "
                "the update is not sent again",
            )

    def _attempted(self, entry: Entry) -> Entry:
        try:
            return self._outbox.attempted(entry)
        except OutboxBlocked:  # a count that is too low after a restart does no harm
            return replace(entry, attempts=entry.attempts + 1)

    def _update_of(self, receipt: Receipt) -> Entry | None:
        """The update that a receipt is about. An aggregator that could not decode it names only its payload."""
        if receipt.incarnation:
            return self._outbox.find(receipt.sequence) if receipt.incarnation == self._outbox.incarnation else None
        return self._outbox.find_payload(receipt.payload_digest) if receipt.payload_digest else None

    def _give_up(self, entry: Entry, reason: str) -> None:
        """An update that can never be sent is dropped, so that it does not block the next one."""
        self._settle(entry, carry_over=True)
        self.record()
        self._emit(
            "warning",
            message=f"update {entry.identity.sequence} is too large and is dropped: {reason}; {_ENDINGS['carry_over']}",
        )


_ENDINGS: Mapping[Verdict, str] = {
    "later": "it is sent again later",
    "carry_over": "its content is sent with the next one",
    "done": "it is dropped",
}
