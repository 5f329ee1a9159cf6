"""The doctor before real brokers: a good one, and bad ones, each with one setting wrong."""

import gc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from operations.doctor import capacity, command, connection, delivery
from operations.doctor.broker_under_test import BrokerUnderTest
from operations.doctor.client import ProbeClient
from operations.doctor.command import broker_under_test, guarded
from operations.doctor.finding import Finding, exit_code
from operations.doctor.settings import DoctorSettings
from tests.broker.mosquitto import await_listener, free_port
from tests.conftest import MakeMosquitto
from tests.operations.doctor.conftest import QUEUE_MESSAGES, Examine, PatientBudget, nothing_is_left
from wire_contract.link.mqtt import MqttSettings
from wire_contract.program.command_settings import UsageError, read_settings

GOOD = ("max_queued_messages 100000", "max_inflight_messages 200", "message_size_limit 1048576")
"""What the contract asks of a mosquitto that is open to all."""
OF_AN_OPEN_BROKER = {"anonymous access", "broker's memory"}
"""Warnings: it is open, and it is a mosquitto 2.0."""
NOT_GIVEN = {"isolation", "WebSocket"}
"""Not checked for want of users and of a second URL."""

ACL = """
user aggregator
topic write fedkd/v1/+/model
topic write fedkd/v1/+/model/+/+
topic write fedkd/v1/+/delta/+
topic write fedkd/v1/+/receipt/+
topic write fedkd/v1/+/aggregator/+
topic read fedkd/v1/+/update/+/+
topic read fedkd/v1/+/presence/+
topic read fedkd/v1/+/evaluation/+
topic read $SYS/#

user looker
topic readwrite fedkd/v1/#

pattern read fedkd/v1/+/model
pattern read fedkd/v1/+/model/+/+
pattern read fedkd/v1/+/delta/+
pattern read fedkd/v1/+/receipt/%u
pattern write fedkd/v1/+/update/+/%u
pattern write fedkd/v1/+/presence/%u
"""
USERS = {"watch": "a", "aggregator": "b", "looker": "c"}
LOOKER = {"username": "looker", "password": "c"}
BOTH = {"username": "watch", "password": "a", "aggregator_username": "aggregator", "aggregator_password": "b"}


@pytest.fixture
def make_guarded(make_mosquitto: MakeMosquitto, tmp_path: Path):  # noqa: ANN201 — a fixture
    """Makes and starts a mosquitto with users and this access list."""

    def make(acl: str = ACL, lines: Sequence[str] = GOOD):  # noqa: ANN202
        file = tmp_path / "acl"
        file.write_text(acl)
        broker = make_mosquitto(users=USERS, lines=[*lines, f"acl_file {file}"])
        broker.start()
        return broker

    return make


@pytest.mark.parametrize("protocol", ["auto", "3.1.1"])
def test_an_open_broker_that_is_set_well(make_mosquitto: MakeMosquitto, examine_broker: Examine, protocol: str) -> None:
    broker = make_mosquitto(lines=GOOD)
    broker.start()
    examined = examine_broker(broker.url, mqtt=protocol)
    assert examined.named("missing") == set()
    assert examined.named("warning") == OF_AN_OPEN_BROKER
    assert examined.named("not checked") == NOT_GIVEN | ({"session's life"} if protocol == "3.1.1" else set())
    assert exit_code(examined.findings) == 0
    assert examined.one("queue limit").line.startswith(f"{QUEUE_MESSAGES:,} ")
    assert examined.broker.kind == "mosquitto"
    nothing_is_left(examined)


def test_a_guarded_broker_that_is_set_well(make_guarded, examine_broker: Examine) -> None:  # noqa: ANN001
    examined = examine_broker(make_guarded().url, **BOTH)
    assert examined.named("missing") == set()
    assert examined.named("warning") == {"broker's memory"}
    assert examined.named("not checked") == {"WebSocket"}
    assert examined.one("anonymous access").verdict == "ok"
    nothing_is_left(examined, reader=LOOKER)


@pytest.mark.parametrize("protocol", ["auto", "3.1.1"])
def test_a_device_alone_is_told_what_else_to_give(make_guarded, examine_broker: Examine, protocol: str) -> None:  # noqa: ANN001
    examined = examine_broker(make_guarded().url, username="watch", password="a", mqtt=protocol)
    assert examined.named("missing") == set()
    assert "--aggregator-username" in examined.one("access").line
    assert {"access", "isolation", "retained", "queue limit", "packet limit"} <= examined.named("not checked")
    nothing_is_left(examined, reader=LOOKER)


MIS_SET = [
    ("auto", "max_queued_messages 1000", "queue limit", "missing"),
    ("auto", "message_size_limit 40000", "packet limit", "missing"),  # acknowledged and thrown away
    ("3.1.1", "message_size_limit 200000", "packet limit", "warning"),
    ("auto", "max_packet_size 40000", "packet limit", "missing"),  # announced
    ("3.1.1", "max_packet_size 40000", "packet limit", "missing"),  # the connection ends
    ("auto", "queue_qos0_messages true", "newest only", "warning"),
    ("3.1.1", "max_inflight_messages 20", "in flight", "warning"),  # MQTT 5 clients have it as they ask
]


@pytest.mark.parametrize("case", MIS_SET, ids=lambda case: f"{case[1]}, {case[0]}")
def test_one_setting_is_wrong(
    make_mosquitto: MakeMosquitto, examine_broker: Examine, case: tuple[str, str, str, str]
) -> None:
    protocol, wrong, name, verdict = case
    setting = wrong.split(maxsplit=1)[0]
    broker = make_mosquitto(lines=[*(line for line in GOOD if not line.startswith(setting)), wrong])
    broker.start()
    examined = examine_broker(broker.url, mqtt=protocol)
    assert examined.one(name).verdict == verdict
    assert setting in examined.one(name).remedies["mosquitto"]
    assert examined.named("missing") == ({name} if verdict == "missing" else set())
    assert examined.named("warning") == OF_AN_OPEN_BROKER | ({name} if verdict == "warning" else set())
    nothing_is_left(examined)


@pytest.mark.parametrize("protocol", ["auto", "3.1.1"])
def test_no_retained_messages(make_mosquitto: MakeMosquitto, examine_broker: Examine, protocol: str) -> None:
    broker = make_mosquitto(lines=[*GOOD, "retain_available false"])
    broker.start()
    examined = examine_broker(broker.url, mqtt=protocol)
    assert examined.one("retained").verdict == "missing"
    assert "retain_available true" in examined.one("retained").remedies["mosquitto"]
    assert examined.named("missing") <= {"retained", "will"}  # the contract's will is a retained message too
    nothing_is_left(examined)


def test_no_quality_of_service(make_mosquitto: MakeMosquitto, examine_broker: Examine) -> None:
    broker = make_mosquitto(lines=[*GOOD, "max_qos 0"])
    broker.start()
    examined = examine_broker(broker.url)
    assert examined.named("missing") == {"QoS 1"}  # and nothing more can be looked at
    assert "max_qos" in examined.one("QoS 1").remedies["mosquitto"]


def test_it_wants_a_user_and_none_is_given(make_guarded, examine_broker: Examine) -> None:  # noqa: ANN001
    examined = examine_broker(make_guarded().url)
    assert examined.named("missing") == {"login"}
    assert "--username" in examined.one("login").advice
    assert exit_code(examined.findings) == 1


def test_a_wrong_password(make_guarded, examine_broker: Examine) -> None:  # noqa: ANN001
    broker = make_guarded()
    examined = examine_broker(broker.url, username="watch", password="guessed")
    assert examined.named("missing") == {"login"}
    assert "user watch" in examined.one("login").line
    assert "guessed" not in str(examined.findings)
    assert exit_code(examined.findings) == 1

    other = examine_broker(broker.url, **{**BOTH, "aggregator_password": "guessed"})
    assert other.named("missing") == {"aggregator login"}
    nothing_is_left(other, reader=LOOKER)


TOO_OPEN = [
    ("auto", "topic readwrite fedkd/v1/+/model", "publish a model"),
    ("3.1.1", "topic write fedkd/v1/+/update/#", "as another"),
    ("auto", "topic read fedkd/v1/+/receipt/#", "another's receipts"),
]


@pytest.mark.parametrize(("protocol", "rule", "deed"), TOO_OPEN)
def test_an_access_list_that_is_too_open(
    make_guarded,  # noqa: ANN001
    examine_broker: Examine,
    rule: str,
    deed: str,
    protocol: str,
) -> None:
    examined = examine_broker(make_guarded(f"{ACL}\nuser watch\n{rule}\n").url, **BOTH, mqtt=protocol)
    assert deed in examined.one("isolation").line
    assert "acl_file" in examined.one("isolation").remedies["mosquitto"]
    assert examined.named("missing") == {"isolation"}
    nothing_is_left(examined, reader=LOOKER)


TOO_CLOSED = [
    ("auto", "pattern write fedkd/v1/+/update/+/%u", "update/0/watch"),
    ("3.1.1", "topic read fedkd/v1/+/update/+/+", "update/0/watch"),
    ("auto", "pattern read fedkd/v1/+/receipt/%u", "receipt/watch"),
    ("3.1.1", "topic write fedkd/v1/+/model/+/+", "model/1/0"),
]


@pytest.mark.parametrize(("protocol", "rule", "topic"), TOO_CLOSED)
def test_an_access_list_that_is_too_closed(
    make_guarded,  # noqa: ANN001
    examine_broker: Examine,
    rule: str,
    topic: str,
    protocol: str,
) -> None:
    assert rule in ACL
    examined = examine_broker(make_guarded(ACL.replace(rule, "")).url, **BOTH, mqtt=protocol)
    assert topic in examined.one("access").line
    assert topic in examined.one("access").remedies["mosquitto"]
    assert examined.named("missing") == {"access"}
    nothing_is_left(examined, reader=LOOKER)


def test_strangers_beside_users(make_mosquitto: MakeMosquitto, examine_broker: Examine) -> None:
    broker = make_mosquitto(users={"watch": "a"}, lines=[*GOOD, "allow_anonymous true"])
    broker.start()
    examined = examine_broker(broker.url, username="watch", password="a")
    assert examined.one("anonymous access").verdict == "warning"
    assert "allow_anonymous false" in examined.one("anonymous access").remedies["mosquitto"]
    assert examined.one("isolation").verdict == "warning"  # this one user may do everything
    assert examined.named("missing") == set()


def test_nobody_listens(examine_broker: Examine) -> None:
    examined = examine_broker(f"mqtt://127.0.0.1:{free_port()}")
    assert "nothing listens" in examined.one("reachable").line
    assert exit_code(examined.findings) == 2
    assert len(examined.findings) == 1


def test_all_of_it_over_websockets(make_mosquitto: MakeMosquitto, examine_broker: Examine) -> None:
    port = free_port()
    broker = make_mosquitto(lines=[*GOOD, f"listener {port} 127.0.0.1", "protocol websockets"])
    broker.start()
    await_listener(port)
    examined = examine_broker(f"ws://127.0.0.1:{port}/mqtt")
    # The listener of mosquitto 2.0.11 sends 40 kB/s, so that the largest packet takes too long.
    assert examined.named("missing") == set()
    assert examined.named("warning") <= OF_AN_OPEN_BROKER | {"packet limit"}
    assert examined.one("WebSocket").verdict == "ok"
    nothing_is_left(examined)


def look_for_websockets(url: str, websocket: str) -> Finding:
    settings = read_settings(DoctorSettings, ["--broker", url, "--websocket", websocket], program="doctor")
    (finding,) = guarded("WebSocket", connection.websocket, broker_under_test(settings, PatientBudget(60)))
    return finding


# When a WebSocket handshake fails, paho leaves the socket to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning")
def test_a_second_listener_for_websockets(make_mosquitto: MakeMosquitto) -> None:
    port = free_port()
    broker = make_mosquitto(lines=[*GOOD, f"listener {port} 127.0.0.1", "protocol websockets"])
    broker.start()
    assert look_for_websockets(broker.url, f"ws://127.0.0.1:{await_listener(port)}/mqtt").verdict == "ok"
    nowhere = look_for_websockets(broker.url, f"ws://127.0.0.1:{broker.port}/mqtt")
    assert nowhere.verdict == "missing"
    assert "protocol websockets" in nowhere.remedies["mosquitto"]
    gc.collect()


def test_a_second_listener_that_lets_nobody_in(make_guarded) -> None:  # noqa: ANN001
    port = free_port()
    broker = make_guarded(lines=[*GOOD, f"listener {port} 127.0.0.1", "protocol websockets"])
    found = look_for_websockets(broker.url, f"ws://127.0.0.1:{await_listener(port)}/mqtt")
    assert found.verdict == "ok"
    assert "refuses this user" in found.line


def test_it_takes_nobodys_session(make_mosquitto: MakeMosquitto, examine_broker: Examine) -> None:
    """A broker that goes by user names: the doctor would get, and end, the session of a program that has this name."""
    users = {"watch": "a", "aggregator": "b"}
    broker = make_mosquitto(users=users, lines=[*GOOD, "use_username_as_clientid true"])
    broker.start()
    mine = MqttSettings(
        host="127.0.0.1",
        port=broker.port,
        client_id="any",
        username="aggregator",
        password="b",
        subscriptions=("fedkd/v1/har/update/0/+",),
    )
    with ProbeClient(mine, PatientBudget(60)):
        pass
    with pytest.raises(
        UsageError, match="one session per user, and another program uses the session of the given aggregator"
    ):
        examine_broker(broker.url, **BOTH)
    with ProbeClient(mine, PatientBudget(60)) as still:
        assert still.session_present

    alone = examine_broker(broker.url, username="watch", password="a")
    assert alone.named("missing") == set()
    assert "only one connection per user" in alone.one("access").line


def test_it_is_done_within_a_minute_whatever_the_broker(
    make_mosquitto: MakeMosquitto, examine_broker: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no time left, what is left is said to be not checked, and cleaned up all the same."""

    def slow(broker: BrokerUnderTest) -> Iterator[Finding]:
        yield from delivery.retained(broker)
        with broker.session("aggregator") as session, broker.connect("aggregator", session=session):
            broker.budget._until = time.monotonic()
        yield from capacity.packet_limit(broker)

    checks = [command.CHECKS[2], ("slow", slow), *command.CHECKS[9:]]
    monkeypatch.setattr(command, "CHECKS", checks)
    broker = make_mosquitto(lines=GOOD)
    broker.start()
    examined = examine_broker(broker.url)
    assert examined.one("retained").verdict == "ok"
    assert "no time was left" in examined.one("slow").line
    assert examined.one("queue limit").verdict == "not checked"
    nothing_is_left(examined)
