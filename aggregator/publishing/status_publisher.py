"""Tells how the aggregator is, on its status topic, when there is news."""

from collections.abc import Callable

from msgspec import structs

from wire_contract.messages import AggregatorStatus

STATUS_SECONDS = 2.0
"""Between two statuses, however many versions and updates there are: each is up to 24 KiB."""


class StatusPublisher:
    """Knows what was told last."""

    def __init__(self, publish: Callable[[AggregatorStatus], None]) -> None:
        self._publish = publish
        self.published: AggregatorStatus | None = None
        self.next_at = 0.0
        """On the monotonic clock."""

    def is_due(self, now: float) -> bool:
        """Whether it is time to look for news."""
        return now >= self.next_at

    def publish(self, status: AggregatorStatus, *, now: float, anyway: bool = False) -> None:
        """Publishes it if it says anything new; `anyway`: in any case."""
        self.next_at = now + STATUS_SECONDS
        if anyway or self.published is None or not _says_the_same(status, self.published):
            self._publish(status)
            self.published = status


def _says_the_same(status: AggregatorStatus, earlier: AggregatorStatus) -> bool:
    """Apart from the moment, and from the bytes of statuses."""
    assert status.summary is not None
    assert earlier.summary is not None
    moment = {"at": earlier.summary.at, "bytes_down": earlier.summary.bytes_down}
    return structs.replace(status, summary=structs.replace(status.summary, **moment)) == earlier
