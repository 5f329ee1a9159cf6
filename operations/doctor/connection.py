"""Checks of the connection: TLS, MQTT versions, login, anonymous access, WebSocket; and the broker's product."""

import dataclasses
import re
from collections.abc import Iterator, Mapping

from operations.doctor import remedies as known
from operations.doctor.broker_under_test import BrokerUnderTest, NotChecked, Role
from operations.doctor.client import ConnectionFailed, ProbeClient
from operations.doctor.delivery import SESSION_DAYS
from operations.doctor.finding import REACHABLE, Broker, Finding
from wire_contract.link.mqtt_settings import DAY_SECONDS, Protocol
from wire_contract.program.command_settings import UsageError

CERTIFICATE_DAYS_MIN = 30.0
"""If the certificate expires sooner, the finding is a warning."""
VERSION_TOPICS = ("$SYS/broker/version", "$SYS/brokers/+/version")
_VERSION = re.compile(r"(\d+)\.(\d+)")


class CannotContinue(Exception):
    """After this finding, no further check is possible."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.line)
        self.finding = finding


def encryption(broker: BrokerUnderTest, now_unix: float) -> Iterator[Finding]:
    """Whether the connection is encrypted, and when the certificate expires."""
    name = "TLS"
    ends = broker.certificate_ends_unix
    if ends is not None:
        days = (ends - now_unix) / DAY_SECONDS
        if days < CERTIFICATE_DAYS_MIN:
            line = f"encrypted, but the broker's certificate expires in {days:.0f} days"
            yield Finding(name=name, verdict="warning", line=line, advice="renew the broker's certificate")
        else:
            yield Finding(name=name, verdict="ok", line=f"encrypted; the certificate is valid for {days:.0f} more days")
    elif broker.is_local:
        yield Finding(name=name, verdict="ok", line="not encrypted, but nothing leaves this machine")
    elif broker.roles["device"].password is not None:
        line = "not encrypted: passwords and models can be read in transit"
        yield Finding(name=name, verdict="missing", line=line, advice="then use mqtts://", remedies=known.ENCRYPTION)
    else:
        line = "not encrypted: models and updates can be read and changed in transit"
        yield Finding(name=name, verdict="warning", line=line, advice="then use mqtts://", remedies=known.ENCRYPTION)


def versions_and_login(broker: BrokerUnderTest) -> Iterator[Finding]:
    """Connects with each version of MQTT as the device, then as the aggregator.

    Raises:
        CannotContinue: the device cannot connect with any version, or the broker has no QoS 1.
    """
    asked: tuple[Protocol, ...] = ("5", "3.1.1") if broker.protocol == "auto" else (broker.protocol,)
    refusals: dict[Protocol, ConnectionFailed] = {}
    granted: Mapping[str, int] = {}
    for protocol in asked:
        broker.protocol = protocol
        try:
            granted = granted or _first_connection(broker, "device")
        except ConnectionFailed as refusal:
            refusals[protocol] = refusal
    spoken = [protocol for protocol in asked if protocol not in refusals]
    if not spoken:
        raise CannotContinue(_no_version_connects(broker, refusals))
    broker.protocol = spoken[0]
    broker.one_client_a_user = not broker.two_roles and _is_one_client_a_user(broker)
    if granted.get("MaximumQoS", 2) < 1:
        line = "the broker does not support QoS 1, which all updates, receipts and model messages need"
        raise CannotContinue(Finding(name="QoS 1", verdict="missing", line=line, remedies=known.QUALITY))
    yield Finding(name="MQTT versions", verdict="ok", line=_spoken(asked, spoken))
    yield from _login(broker)


def _first_connection(broker: BrokerUnderTest, role: Role) -> Mapping[str, int]:
    """Connects with a session, which is ended afterwards. On a broker that keeps one session per user, this could be
    another program's session.

    Raises:
        UsageError: the broker already has a session for our new client id.
    """
    with (
        broker.session(role) as session,
        broker.connect(role, session=session, session_seconds=SESSION_DAYS * DAY_SECONDS) as client,
    ):
        granted = dict(client.granted)
        if client.session_present:
            broker.disown(session)
            raise UsageError(
                f"the broker keeps one session per user, and another program uses the session of the given {role}:"
                " give users that were made for the doctor"
            )
    return granted


def _is_one_client_a_user(broker: BrokerUnderTest) -> bool:
    with broker.session("device") as one, broker.session("aggregator") as other:
        with broker.connect("device", session=one):
            pass
        with broker.connect("aggregator", session=other) as client:
            return client.session_present


def _spoken(asked: tuple[Protocol, ...], spoken: list[Protocol]) -> str:
    others = [protocol for protocol in asked if protocol not in spoken]
    if not others:
        return " and ".join(spoken)
    if "3.1.1" in others:
        return "5 only; firmware with MQTT 3.1.1 cannot connect"
    return "3.1.1 only, which is enough; --mqtt 3.1.1 saves the programs from trying 5 first"


def _no_version_connects(broker: BrokerUnderTest, refusals: dict[Protocol, ConnectionFailed]) -> Finding:
    # The last answer: a broker without MQTT 5 reports a wrong password only with 3.1.1.
    refusal = list(refusals.values())[-1]
    if not refusal.refused:
        return Finding(name=REACHABLE, verdict="missing", line=_own_words(refusal), advice="check --broker")
    return _refused("device", broker, refusal)


def _own_words(refusal: ConnectionFailed) -> str:
    """The message without the address, which is in the report's header."""
    return re.sub(r"^broker \S+: ", "", str(refusal))


def _refused(role: Role, broker: BrokerUnderTest, refusal: ConnectionFailed) -> Finding:
    prefix = "" if role == "device" else "aggregator-"
    what = f"the broker {_own_words(refusal)}"
    name = "login" if role == "device" else "aggregator login"
    settings = broker.roles[role]
    if settings.username is None and not broker.has_certificate:
        return Finding(
            name=name,
            verdict="missing",
            line=f"{what}; it requires a user",
            advice=f"give --{prefix}username and --{prefix}password-file, or FEDKD_{prefix.upper().replace('-', '_')}"
            "PASSWORD",
        )
    return Finding(
        name=name,
        verdict="missing",
        line=f"{what} to user {settings.username or 'in the certificate'}",
        advice="check user and password; the broker's log says which of them is wrong",
        remedies={"mosquitto": "mosquitto_passwd FILE USER, then SIGHUP", "EMQX": "authentication → users"},
    )


def _login(broker: BrokerUnderTest) -> Iterator[Finding]:
    users = f"user {broker.roles['device'].username}" if broker.roles["device"].username else "without a user"
    if broker.has_certificate:
        users = "with a certificate"
    yield Finding(name="login", verdict="ok", line=users)
    if broker.two_roles:
        try:
            _first_connection(broker, "aggregator")
        except ConnectionFailed as refusal:
            yield _refused("aggregator", broker, refusal)
            broker.two_roles = False
            broker.roles["aggregator"] = broker.roles["device"]
        else:
            user = broker.roles["aggregator"].username
            line = f"user {user}" if user else "with a certificate"
            yield Finding(name="aggregator login", verdict="ok", line=line)


def anonymous_access(broker: BrokerUnderTest) -> Iterator[Finding]:
    """Whether clients without a user can connect."""
    name = "anonymous access"
    try:
        with broker.anonymous_client():
            pass
    except ConnectionFailed:
        yield Finding(name=name, verdict="ok", line="refused")
        return
    if broker.has_credentials:
        line = "clients without a user can connect as well"
    else:
        line = "anybody who can reach the broker may do everything"
    yield Finding(name=name, verdict="warning", line=line, remedies=known.ANONYMOUS)


def websocket(broker: BrokerUnderTest) -> Iterator[Finding]:
    """Whether the WebSocket listener accepts MQTT."""
    name = "WebSocket"
    if broker.roles["device"].transport == "websockets":
        yield Finding(name=name, verdict="ok", line="all checks used it")
        return
    if broker.websocket is None:
        raise NotChecked("give --websocket ws://host:port/mqtt, if devices or browsers connect that way")
    settings = dataclasses.replace(
        broker.websocket,
        client_id=broker.client_id("web"),
        protocol=broker.protocol,
        clean_start=True,
        session_expiry_seconds=0,
        close_seconds_max=0.5,
    )
    try:
        with ProbeClient(settings, broker.budget):
            pass
    except ConnectionFailed as refusal:
        if refusal.refused:
            line = f"MQTT at {settings.address}{settings.websocket_path}, which refuses this user"
            yield Finding(name=name, verdict="ok", line=line)
            return
        line = f"no MQTT at {settings.address}{settings.websocket_path}: {_own_words(refusal)}"
        yield Finding(name=name, verdict="missing", line=line, remedies=known.WEBSOCKET)
        return
    yield Finding(name=name, verdict="ok", line=f"MQTT at {settings.address}{settings.websocket_path}")


def identity(broker: BrokerUnderTest) -> Iterator[Finding]:
    """Which product the broker is, and what is known about the durability of its version."""
    said = ""
    roles: tuple[Role, ...] = ("aggregator", "device") if broker.two_roles else ("device",)
    for role in roles:
        with broker.connect(role) as client:
            for topic in VERSION_TOPICS:
                client.subscribe(topic)
            received = client.receive(bool, seconds=1.0)
        if received:
            said = received[0].payload.decode(errors="replace")[:60]
            broker.kind = broker.kind or kind_of(received[0].topic, said)
            break
    yield durability(said, broker.kind)


def kind_of(topic: str, said: str) -> Broker | None:
    """The product with this version topic and text."""
    if "mosquitto" in said.lower():
        return "mosquitto"
    return "EMQX" if topic.startswith("$SYS/brokers/") else None


def durability(said: str, kind: Broker | None) -> Finding:
    """What is known about the durability of this product and version; the doctor cannot restart it to test that."""
    name = "broker's memory"
    version = _VERSION.search(said)
    numbers = (int(version[1]), int(version[2])) if version else None
    if kind == "mosquitto" and numbers is not None and numbers < (2, 1):
        return Finding(
            name=name,
            verdict="warning",
            line=f"{said} loses everything since its last autosave when it is killed; receipts compensate for that",
            remedies=known.DURABLE,
        )
    if kind == "mosquitto":
        return Finding(
            name=name,
            verdict="not checked",
            line=f"{said} loses nothing when it is killed, but only with its own database",
            remedies={"mosquitto": "the plugin persist-sqlite with flush_period 0"},
        )
    if "amqtt" in said.lower():
        return Finding(
            name=name,
            verdict="warning",
            line=f"{said} keeps everything in memory: a restart loses sessions and models",
            advice="use it for experiments only",
        )
    told = f"{said}: not known to the doctor" if said else "the broker does not report its version"
    return Finding(
        name=name, verdict="not checked", line=f"{told}; check that it stores sessions and retained messages on disk"
    )
