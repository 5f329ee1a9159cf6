"""Publishes the aggregator's status on its topic when it has changed."""

from collections.abc import Callable

from msgspec import structs

from wire_contract.messages import AggregatorStatus

STATUS_SECONDS = 2.0
"""Shortest time between two statuses, whatever the load; one is up to 24 KiB."""


class StatusPublisher:
    """Remembers the status that was published last."""

    def __init__(self, publish: Callable[[AggregatorStatus], None]) -> None:
        self._publish = publish
        self.published: AggregatorStatus | None = None
        self.next_at = 0.0
        """Monotonic seconds."""

    def is_due(self, now: float) -> bool:
        """Whether it is time to check for changes."""
        return now >= self.next_at

    def publish(self, status: AggregatorStatus, *, now: float, anyway: bool = False) -> None:
        """Publishes `status` if it has changed, or in any case if `anyway` is set."""
        self.next_at = now + STATUS_SECONDS
        if anyway or self.published is None or not _says_the_same(status, self.published):
            self._publish(status)
            self.published = status


def _says_the_same(status: AggregatorStatus, earlier: AggregatorStatus) -> bool:
    """Whether both are equal apart from the time, and from the bytes sent, which statuses themselves increase."""
    assert status.summary is not None
    assert earlier.summary is not None
    moment = {"at": earlier.summary.at, "bytes_down": earlier.summary.bytes_down}
    return structs.replace(status, summary=structs.replace(status.summary, **moment)) == earlier
