"""The filters of one link, each with its QoS, and what of them the broker has not been told yet: they outlive
connections.
"""

from collections.abc import Iterable, Mapping, Sequence
from threading import Lock

from wire_contract.link.mqtt_rules import check_filter
from wire_contract.link.protocol import QoS, TopicFilters


class Subscriptions:
    """Any thread changes them; one thread tells the broker."""

    def __init__(self, filters: TopicFilters) -> None:
        """Raises:
        LinkError: nobody can subscribe to one of them.
        """
        for topic_filter in filters:
            check_filter(topic_filter)
        self._lock = Lock()
        self._filters: dict[str, QoS] = dict(filters) if isinstance(filters, Mapping) else dict.fromkeys(filters, 1)
        self._untold: dict[str, QoS | None] = {}
        """Filter to the QoS that is wanted, None: it is not wanted any more; in the order of the changes."""
        self._leaving: dict[str, None] = {}
        """The broker was told that these are not wanted, and has not answered yet."""

    def add(self, topic_filter: str, qos: QoS = 1) -> None:
        """Raises:
        LinkError: nobody can subscribe to it.
        """
        check_filter(topic_filter)
        self._change(topic_filter, qos)

    def remove(self, topic_filter: str) -> None:
        self._change(topic_filter, None)

    def take_all(self) -> Sequence[tuple[str, QoS]]:
        """For a new connection. What was removed and not answered is untold again: the session may still have it."""
        with self._lock:
            removed = [topic_filter for topic_filter, qos in self._untold.items() if qos is None]
            self._untold = {name: None for name in (*self._leaving, *removed) if name not in self._filters}
            self._leaving.clear()
            return tuple(self._filters.items())

    def take_changes(self) -> Sequence[tuple[str, QoS | None]]:
        """Filters and the QoS that they are wanted at (None: not any more), since the last call."""
        with self._lock:
            untold, self._untold = self._untold, {}
            for topic_filter, qos in untold.items():
                if qos is not None:
                    self._leaving.pop(topic_filter, None)
                else:
                    self._leaving[topic_filter] = None
            return tuple(untold.items())

    def left(self, filters: Iterable[str]) -> None:
        """The broker has answered that it sends nothing more of them."""
        with self._lock:
            for topic_filter in filters:
                self._leaving.pop(topic_filter, None)

    def forget(self, topic_filter: str) -> None:
        """The broker has refused it."""
        with self._lock:
            self._filters.pop(topic_filter, None)

    def _change(self, topic_filter: str, qos: QoS | None) -> None:
        with self._lock:
            if qos is None:
                self._filters.pop(topic_filter, None)
            else:
                self._filters[topic_filter] = qos
            self._untold.pop(topic_filter, None)
            self._untold[topic_filter] = qos
