"""The subscriptions of one link, with the changes that were not sent to the broker yet. They outlive connections."""

from collections.abc import Iterable, Mapping, Sequence
from threading import Lock

from wire_contract.link.mqtt_rules import check_filter
from wire_contract.link.protocol import QoS, TopicFilters


class Subscriptions:
    """Any thread may add and remove filters; one thread sends the changes to the broker."""

    def __init__(self, filters: TopicFilters) -> None:
        """Raises:
        LinkError: one of the filters is invalid.
        """
        for topic_filter in filters:
            check_filter(topic_filter)
        self._lock = Lock()
        self._filters: dict[str, QoS] = dict(filters) if isinstance(filters, Mapping) else dict.fromkeys(filters, 1)
        self._pending: dict[str, QoS | None] = {}
        """Changes that were not sent yet, in order: filter to QoS; None: unsubscribe."""
        self._leaving: dict[str, None] = {}
        """Filters for which an UNSUBSCRIBE was sent and not yet answered."""

    def add(self, topic_filter: str, qos: QoS = 1) -> None:
        """Raises:
        LinkError: the filter is invalid.
        """
        check_filter(topic_filter)
        self._change(topic_filter, qos)

    def remove(self, topic_filter: str) -> None:
        self._change(topic_filter, None)

    def take_all(self) -> Sequence[tuple[str, QoS]]:
        """All subscriptions, for a new connection. Unanswered removals are pending again: the session may still have
        them.
        """
        with self._lock:
            removed = [topic_filter for topic_filter, qos in self._pending.items() if qos is None]
            self._pending = {name: None for name in (*self._leaving, *removed) if name not in self._filters}
            self._leaving.clear()
            return tuple(self._filters.items())

    def take_changes(self) -> Sequence[tuple[str, QoS | None]]:
        """Changes since the last call: filters with their QoS; None: unsubscribe."""
        with self._lock:
            pending, self._pending = self._pending, {}
            for topic_filter, qos in pending.items():
                if qos is not None:
                    self._leaving.pop(topic_filter, None)
                else:
                    self._leaving[topic_filter] = None
            return tuple(pending.items())

    def left(self, filters: Iterable[str]) -> None:
        """The broker has confirmed that it unsubscribed these filters."""
        with self._lock:
            for topic_filter in filters:
                self._leaving.pop(topic_filter, None)

    def forget(self, topic_filter: str) -> None:
        """The broker has refused this filter."""
        with self._lock:
            self._filters.pop(topic_filter, None)

    def _change(self, topic_filter: str, qos: QoS | None) -> None:
        with self._lock:
            if qos is None:
                self._filters.pop(topic_filter, None)
            else:
                self._filters[topic_filter] = qos
            self._pending.pop(topic_filter, None)
            self._pending[topic_filter] = qos
