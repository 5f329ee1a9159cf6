"""The contract of a link over a real mosquitto, in every version of MQTT."""

from collections.abc import Iterator

import pytest

from tests.broker.link.conftest import MakeLink
from tests.broker.mosquitto import Mosquitto
from tests.broker.relay import Relay
from tests.wire_contract.link.link_contract import LinkContract, World
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.protocol import Will


class MqttWorld(World):
    """Each link has its own line to the broker, so that it alone can be cut."""

    bounds_unacknowledged = False

    def __init__(self, broker: Mosquitto, make_link: MakeLink, protocol: str) -> None:
        self.broker = broker
        self._make_link = make_link
        self._protocol = protocol
        self._lines: dict[str, Relay] = {}

    def link(self, client_id: str, *subscriptions: str, will: Will | None = None, **settings: int) -> MqttLink:
        line = self._lines.setdefault(client_id, Relay(self.broker.port))
        return self._make_link(
            line.port,
            client_id=client_id,
            subscriptions=subscriptions,
            will=will,
            protocol=self._protocol,
            **settings,
        )

    def cut(self, client_id: str) -> None:
        self._lines[client_id].cut()

    def stop(self, *, lose_state: bool) -> None:
        if lose_state:
            self.broker.kill()
            self.broker.forget()
        else:
            self.broker.stop()

    def start(self) -> None:
        self.broker.start()

    def close(self) -> None:
        for line in self._lines.values():
            line.close()


@pytest.fixture(params=["5", "3.1.1", "auto"])
def world(request: pytest.FixtureRequest, mosquitto: Mosquitto, make_link: MakeLink) -> Iterator[MqttWorld]:
    world = MqttWorld(mosquitto, make_link, request.param)
    yield world
    world.close()


class TestMqttLink(LinkContract):
    pass
