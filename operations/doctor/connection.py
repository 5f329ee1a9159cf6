"""Getting in: TLS, MQTT versions, users, anonymous_access, WebSocket; and what the broker says it is."""

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
"""A certificate that expires sooner is worth a word."""
VERSION_TOPICS = ("$SYS/broker/version", "$SYS/brokers/+/version")
_VERSION = re.compile(r"(\d+)\.(\d+)")


class CannotContinue(Exception):
    """What was found leaves nothing more to look at."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.line)
        self.finding = finding


def encryption(broker: BrokerUnderTest, now_unix: float) -> Iterator[Finding]:
    """Whether others can read along, and how long the certificate lasts."""
    name = "TLS"
    ends = broker.certificate_ends_unix
    if ends is not None:
        days = (ends - now_unix) / DAY_SECONDS
        if days < CERTIFICATE_DAYS_MIN:
            line = f"encrypted, but the broker's certificate expires in {days:.0f} days"
            yield Finding(name=name, verdict="warning", line=line, advice="renew the broker's certificate")
        else:
            yield Finding(name=name, verdict="ok", line=f"encrypted; the certificate lasts {days:.0f} days more")
    elif broker.is_local:
        yield Finding(name=name, verdict="ok", line="not encrypted, and nothing leaves this machine")
    elif broker.roles["device"].password is not None:
        line = "not encrypted: passwords and models can be read on the way"
        yield Finding(name=name, verdict="missing", line=line, advice="then use mqtts://", remedies=known.ENCRYPTION)
    else:
        line = "not encrypted: models and updates can be read and changed on the way"
        yield Finding(name=name, verdict="warning", line=line, advice="then use mqtts://", remedies=known.ENCRYPTION)


def versions_and_login(broker: BrokerUnderTest) -> Iterator[Finding]:
    """Each version of MQTT with the device's user, then the aggregator's user.

    Raises:
        CannotContinue: the device's user does not get in with any version, or there is no QoS 1.
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
        line = "takes no QoS 1, which every message of the contract has"
        raise CannotContinue(Finding(name="QoS 1", verdict="missing", line=line, remedies=known.QUALITY))
    yield Finding(name="MQTT versions", verdict="ok", line=_spoken(asked, spoken))
    yield from _login(broker)


def _first_connection(broker: BrokerUnderTest, role: Role) -> Mapping[str, int]:
    """Careful: a broker that goes by the user's name would give us somebody's session, and we are about to end ours.

    Raises:
        UsageError: it has a session for this client, whose id we have just made up.
    """
    with (
        broker.session(role) as session,
        broker.connect(role, session=session, session_seconds=SESSION_DAYS * DAY_SECONDS) as client,
    ):
        granted = dict(client.granted)
        if client.session_present:
            broker.disown(session)
            raise UsageError(
                f"the broker keeps one session a user, and that of the {role} given here is in use by another program:"
                " give users that no program has, made for the doctor"
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
        return "5 only; firmware that speaks 3.1.1 cannot take part"
    return "3.1.1 only, which is enough; --mqtt 3.1.1 saves the programs from trying 5 first"


def _no_version_connects(broker: BrokerUnderTest, refusals: dict[Protocol, ConnectionFailed]) -> Finding:
    # The newest answer: a broker that has no MQTT 5 says of a wrong password only to 3.1.1.
    refusal = list(refusals.values())[-1]
    if not refusal.refused:
        return Finding(name=REACHABLE, verdict="missing", line=_own_words(refusal), advice="look at --broker")
    return _refused("device", broker, refusal)


def _own_words(refusal: ConnectionFailed) -> str:
    """Without the address, which stands in the head of the report."""
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
            line=f"{what}; it wants a user",
            advice=f"give --{prefix}username and --{prefix}password-file, or FEDKD_{prefix.upper().replace('-', '_')}"
            "PASSWORD",
        )
    return Finding(
        name=name,
        verdict="missing",
        line=f"{what} to user {settings.username or 'in the certificate'}",
        advice="look at user and password; the broker's log says which of them",
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
    """Whether somebody without a user gets in."""
    name = "anonymous access"
    try:
        with broker.anonymous_client():
            pass
    except ConnectionFailed:
        yield Finding(name=name, verdict="ok", line="refused")
        return
    if broker.has_credentials:
        line = "clients without a user get in beside those that have one"
    else:
        line = "whoever reaches the broker may take part and do everything"
    yield Finding(name=name, verdict="warning", line=line, remedies=known.ANONYMOUS)


def websocket(broker: BrokerUnderTest) -> Iterator[Finding]:
    """Whether the other listener speaks MQTT too."""
    name = "WebSocket"
    if broker.roles["device"].transport == "websockets":
        yield Finding(name=name, verdict="ok", line="all of this went over it")
        return
    if broker.websocket is None:
        raise NotChecked("give --websocket ws://host:port/mqtt, if devices shall come that way")
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
            line = f"MQTT at {settings.address}{settings.websocket_path}, which lets this user not in"
            yield Finding(name=name, verdict="ok", line=line)
            return
        line = f"no MQTT at {settings.address}{settings.websocket_path}: {_own_words(refusal)}"
        yield Finding(name=name, verdict="missing", line=line, remedies=known.WEBSOCKET)
        return
    yield Finding(name=name, verdict="ok", line=f"MQTT at {settings.address}{settings.websocket_path}")


def identity(broker: BrokerUnderTest) -> Iterator[Finding]:
    """What the broker says it is, and what is known of that version's memory."""
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
    """Whose version topic says this."""
    if "mosquitto" in said.lower():
        return "mosquitto"
    return "EMQX" if topic.startswith("$SYS/brokers/") else None


def durability(said: str, kind: Broker | None) -> Finding:
    """What is known of a broker that says this of itself; a restart cannot be tried from here."""
    name = "broker's memory"
    version = _VERSION.search(said)
    numbers = (int(version[1]), int(version[2])) if version else None
    if kind == "mosquitto" and numbers is not None and numbers < (2, 1):
        return Finding(
            name=name,
            verdict="warning",
            line=f"{said} forgets what it took since its last autosave when it is killed; receipts make up for that",
            remedies=known.DURABLE,
        )
    if kind == "mosquitto":
        return Finding(
            name=name,
            verdict="not checked",
            line=f"{said} keeps all when it is killed only with its own database",
            remedies={"mosquitto": "the plugin persist-sqlite with flush_period 0"},
        )
    if "amqtt" in said.lower():
        return Finding(
            name=name,
            verdict="warning",
            line=f"{said} keeps all in memory: a restart loses sessions and models",
            advice="use it for trying only",
        )
    told = f"{said}: not known here" if said else "the broker does not tell its version"
    return Finding(
        name=name, verdict="not checked", line=f"{told}; look whether sessions and retained messages are on its disk"
    )
