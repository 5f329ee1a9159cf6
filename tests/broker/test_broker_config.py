"""The configuration files of broker_config/ are accepted by a real mosquitto, and mean what they say."""

from pathlib import Path

from tests.conftest import MakeMosquitto
from tests.wire_contract.link.link_contract import (
    PATIENCE_SECONDS,
    UP,
    connection,
    gather,
    listening,
    messages,
    publish,
)
from wire_contract.errors import PayloadTooLarge
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Connected

CONFIG = Path(__file__).parents[2] / "broker_config" / "mosquitto-development.conf"
OURS = ("listener ", "persistence ", "persistence_location ")


def test_mosquitto_runs_with_the_development_configuration(make_mosquitto: MakeMosquitto) -> None:
    text = CONFIG.read_text()
    assert "listener 1883 127.0.0.1" in text.splitlines(), "never open to the network"
    assert "persistence true" in text.splitlines()
    # Listener and folder are the test's own; all else is the file's.
    config = "\n".join(line for line in text.splitlines() if not line.startswith(OURS))
    broker = make_mosquitto(config=config)
    broker.start()
    assert "Error" not in broker.log
    settings = MqttSettings(
        host="127.0.0.1", port=broker.port, client_id="aggregator", subscriptions=(UP + "+",), protocol="5"
    )
    link = MqttLink(settings)
    listening(link)
    assert link._state.in_flight_max == 100, "max_inflight_messages has arrived"
    link.close()

    device = MqttLink(MqttSettings(host="127.0.0.1", port=broker.port, client_id="device"))
    publish(device, *range(2_000))  # twice the default of max_queued_messages
    largest = bytes(settings.packet_bytes_max - len(UP) - 20)
    assert device.publish(f"{UP}x", largest).wait(PATIENCE_SECONDS)
    try:
        device.publish(f"{UP}x", bytes(1_048_577))
    except PayloadTooLarge:
        pass
    else:
        raise AssertionError("mosquitto would throw it away")
    broker.restart(lose_state=False)
    connection(device)
    device.close()

    link = MqttLink(settings)
    events = gather(link, lambda events: any(isinstance(event, Connected) for event in events), ack=True)
    got = [event for event in events if not isinstance(event, Connected)]
    rest = messages(link, 2_001 - len(got))
    assert len(got) + len(rest) == 2_001
    assert rest[-1].payload == largest
    link.close()
