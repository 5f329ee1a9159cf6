"""Links to real brokers that come back at once, and what tests ask of their events."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.wire_contract.link.link_contract import gather
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Disconnected, Event

MakeLink = Callable[..., MqttLink]


@pytest.fixture
def make_link() -> Iterator[MakeLink]:
    """Links that come back at once, and that are closed with the test."""
    made: list[MqttLink] = []

    def make(port: int, *, client_id: str = "device", uniform: Any = None, clock: Any = None, **more: Any) -> MqttLink:
        settings = MqttSettings(
            **{"host": "127.0.0.1", "port": port, "client_id": client_id, "reconnect_delay_max_seconds": 0.05, **more}
        )
        sources = {"uniform": uniform, "clock": clock}
        made.append(MqttLink(settings, **{name: source for name, source in sources.items() if source is not None}))
        return made[-1]

    yield make
    for link in made:
        link.close()


def times(kind: type[Event], events: list[Event]) -> int:
    """How many of that kind; one look may find several."""
    return sum(isinstance(event, kind) for event in events)


def is_disconnected(events: list[Event]) -> bool:
    return any(isinstance(event, Disconnected) for event in events)


def refusal(link: MqttLink) -> str:
    events = gather(link, lambda events: any(isinstance(event, Disconnected) and event.refused for event in events))
    return next(event.reason for event in events if isinstance(event, Disconnected) and event.refused)
