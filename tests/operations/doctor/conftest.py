"""Examining brokers in this process, and looking whether anything was left at them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from operations.doctor import capacity, command
from operations.doctor.broker_under_test import CLEAN_UP_SECONDS_MAX, BrokerUnderTest
from operations.doctor.client import ProbeClient, TimeBudget
from operations.doctor.command import EXAMINATION_SECONDS_MAX, broker_under_test, examine
from operations.doctor.finding import Finding
from operations.doctor.settings import DoctorSettings
from wire_contract.link.mqtt import MqttSettings
from wire_contract.program.command_settings import read_settings

PATIENCE_FACTOR = 3.0
QUEUE_MESSAGES = 1_500
"""Above mosquitto's default limit of 1,000."""


class PatientBudget(TimeBudget):
    """Each wait may take several times as long as a person would let it, on a machine that does other things too."""

    def limit(self, seconds: float) -> float:
        return super().limit(PATIENCE_FACTOR * seconds)


@dataclass(frozen=True)
class Examined:
    """One examination."""

    broker: BrokerUnderTest
    findings: Sequence[Finding]

    def verdicts(self) -> Mapping[str, str]:
        """By name; of several findings of one name, the worst."""
        order = ("ok", "not checked", "warning", "missing")
        found: dict[str, str] = {}
        for finding in self.findings:
            found[finding.name] = max(finding.verdict, found.get(finding.name, "ok"), key=order.index)
        return found

    def named(self, verdict: str) -> set[str]:
        return {name for name, found in self.verdicts().items() if found == verdict}

    def all_of(self, name: str) -> Sequence[Finding]:
        return [finding for finding in self.findings if finding.name == name]

    def one(self, name: str) -> Finding:
        (finding,) = self.all_of(name)
        return finding


Examine = Callable[..., Examined]


@pytest.fixture
def examine_broker(monkeypatch: pytest.MonkeyPatch) -> Examine:
    """With these flags: `examine_broker(url, username="x")`."""
    monkeypatch.delenv("FEDKD_BROKER", raising=False)
    monkeypatch.setattr(command, "CLEAN_UP_SECONDS_MAX", PATIENCE_FACTOR * CLEAN_UP_SECONDS_MAX)
    monkeypatch.setattr(capacity, "_QUIET_SECONDS", 2.0)

    def run(url: str, **flags: object) -> Examined:
        flags = {"queue_messages": QUEUE_MESSAGES, **flags}
        arguments = [part for name, value in flags.items() for part in ("--" + name.replace("_", "-"), str(value))]
        settings = read_settings(DoctorSettings, ["--broker", url, *arguments], program="doctor")
        broker = broker_under_test(settings, PatientBudget(PATIENCE_FACTOR * EXAMINATION_SECONDS_MAX))
        return Examined(broker, list(examine(broker, now_unix=time.time())))

    return run


def nothing_is_left(examined: Examined, *, reader: Mapping[str, Any] | None = None, sessions: bool = True) -> None:
    """Fails when the broker has a session or a retained message of the examination.

    Args:
        examined: what was done.
        reader: user, password and the like of somebody who may read all; None: as the device.
        sessions: False for amqtt, which says that it has a session when it has just ended it.
    """
    broker = examined.broker
    device = broker.roles["device"]
    base: dict[str, Any] = {
        "host": device.host,
        "port": device.port,
        "transport": device.transport,
        "protocol": broker.protocol,
        "session_expiry_seconds": 0,
        "reconnect_delay_max_seconds": 0.05,
    }
    budget = PatientBudget(60)
    for role, client_id in broker.sessions_made if sessions else ():
        settings = broker.roles[role]
        own = {"username": settings.username, "password": settings.password, "tls": settings.tls}
        with ProbeClient(MqttSettings(client_id=client_id, **base, **own), budget) as client:
            assert not client.session_present, f"the session {client_id} is left"
    own = {"username": device.username, "password": device.password, "tls": device.tls}
    who = own if reader is None else reader
    topics = f"{broker.root}/{broker.task}/#"
    looking = MqttSettings(client_id="looker", clean_start=True, subscriptions=(topics,), **base, **who)
    with ProbeClient(looking, budget) as looker:
        # What is retained comes before the answer to what is published on the same connection after it.
        looker.publish(f"{broker.root}/{broker.task}/model", b"mark")
        left = [
            one.topic
            for one in looker.receive(lambda received: any(one.payload == b"mark" for one in received), seconds=2)
        ]
    assert left == [f"{broker.root}/{broker.task}/model"]
