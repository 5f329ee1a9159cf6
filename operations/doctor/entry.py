"""Getting in: TLS, MQTT versions, users, strangers, WebSocket; and what the broker says it is."""

import dataclasses
import re
from collections.abc import Iterator, Mapping

from operations.doctor import finding as mends
from operations.doctor.bench import Bench, NotChecked, Role
from operations.doctor.delivery import SESSION_DAYS
from operations.doctor.finding import REACHABLE, Broker, Finding
from operations.doctor.visitor import NotLetIn, Visitor
from wire_contract.link.mqtt_settings import DAY_SECONDS, Protocol
from wire_contract.program.command_settings import UsageError

CERTIFICATE_DAYS_MIN = 30.0
"""A certificate that expires sooner is worth a word."""
VERSION_TOPICS = ("$SYS/broker/version", "$SYS/brokers/+/version")
_VERSION = re.compile(r"(\d+)\.(\d+)")


class NoEntry(Exception):
    """What was found leaves nothing more to look at."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.line)
        self.finding = finding


def encryption(bench: Bench, now_unix: float) -> Iterator[Finding]:
    """Whether others can read along, and how long the certificate lasts."""
    name = "TLS"
    ends = bench.certificate_ends_unix
    if ends is not None:
        days = (ends - now_unix) / DAY_SECONDS
        if days < CERTIFICATE_DAYS_MIN:
            line = f"encrypted, but the broker's certificate expires in {days:.0f} days"
            yield Finding(name=name, verdict="warning", line=line, mend="renew the broker's certificate")
        else:
            yield Finding(name=name, verdict="ok", line=f"encrypted; the certificate lasts {days:.0f} days more")
    elif bench.is_local:
        yield Finding(name=name, verdict="ok", line="not encrypted, and nothing leaves this machine")
    elif bench.roles["device"].password is not None:
        line = "not encrypted: passwords and models can be read on the way"
        yield Finding(name=name, verdict="missing", line=line, mend="then use mqtts://", mending=mends.ENCRYPTION)
    else:
        line = "not encrypted: models and updates can be read and changed on the way"
        yield Finding(name=name, verdict="warning", line=line, mend="then use mqtts://", mending=mends.ENCRYPTION)


def versions_and_login(bench: Bench) -> Iterator[Finding]:
    """Each version of MQTT with the device's user, then the aggregator's user.

    Raises:
        NoEntry: the device's user does not get in with any version, or there is no QoS 1.
    """
    asked: tuple[Protocol, ...] = ("5", "3.1.1") if bench.protocol == "auto" else (bench.protocol,)
    refusals: dict[Protocol, NotLetIn] = {}
    granted: Mapping[str, int] = {}
    for protocol in asked:
        bench.protocol = protocol
        try:
            granted = granted or _first_visit(bench, "device")
        except NotLetIn as refusal:
            refusals[protocol] = refusal
    spoken = [protocol for protocol in asked if protocol not in refusals]
    if not spoken:
        raise NoEntry(_no_entry(bench, refusals))
    bench.protocol = spoken[0]
    bench.one_client_a_user = not bench.two_roles and _is_one_client_a_user(bench)
    if granted.get("MaximumQoS", 2) < 1:
        line = "takes no QoS 1, which every message of the contract has"
        raise NoEntry(Finding(name="QoS 1", verdict="missing", line=line, mending=mends.QUALITY))
    yield Finding(name="MQTT versions", verdict="ok", line=_spoken(asked, spoken))
    yield from _login(bench)


def _first_visit(bench: Bench, role: Role) -> Mapping[str, int]:
    """Careful: a broker that goes by the user's name would give us somebody's session, and we are about to end ours.

    Raises:
        UsageError: it has a session for this client, whose id we have just made up.
    """
    with (
        bench.session(role) as session,
        bench.visit(role, session=session, session_seconds=SESSION_DAYS * DAY_SECONDS) as visitor,
    ):
        granted = dict(visitor.granted)
        if visitor.session_present:
            bench.leave(session)
            raise UsageError(
                f"the broker keeps one session a user, and that of the {role} given here is in use by another program:"
                " give users that no program has, made for the doctor"
            )
    return granted


def _is_one_client_a_user(bench: Bench) -> bool:
    with bench.session("device") as one, bench.session("aggregator") as other:
        with bench.visit("device", session=one):
            pass
        with bench.visit("aggregator", session=other) as visitor:
            return visitor.session_present


def _spoken(asked: tuple[Protocol, ...], spoken: list[Protocol]) -> str:
    others = [protocol for protocol in asked if protocol not in spoken]
    if not others:
        return " and ".join(spoken)
    if "3.1.1" in others:
        return "5 only; firmware that speaks 3.1.1 cannot take part"
    return "3.1.1 only, which is enough; --mqtt 3.1.1 saves the programs from trying 5 first"


def _no_entry(bench: Bench, refusals: dict[Protocol, NotLetIn]) -> Finding:
    # The newest answer: a broker that has no MQTT 5 says of a wrong password only to 3.1.1.
    refusal = list(refusals.values())[-1]
    if not refusal.refused:
        return Finding(name=REACHABLE, verdict="missing", line=_own_words(refusal), mend="look at --broker")
    return _refused("device", bench, refusal)


def _own_words(refusal: NotLetIn) -> str:
    """Without the address, which stands in the head of the report."""
    return re.sub(r"^broker \S+: ", "", str(refusal))


def _refused(role: Role, bench: Bench, refusal: NotLetIn) -> Finding:
    prefix = "" if role == "device" else "aggregator-"
    what = f"the broker {_own_words(refusal)}"
    name = "login" if role == "device" else "aggregator login"
    settings = bench.roles[role]
    if settings.username is None and not bench.has_certificate:
        return Finding(
            name=name,
            verdict="missing",
            line=f"{what}; it wants a user",
            mend=f"give --{prefix}username and --{prefix}password-file, or FEDKD_{prefix.upper().replace('-', '_')}"
            "PASSWORD",
        )
    return Finding(
        name=name,
        verdict="missing",
        line=f"{what} to user {settings.username or 'in the certificate'}",
        mend="look at user and password; the broker's log says which of them",
        mending={"mosquitto": "mosquitto_passwd FILE USER, then SIGHUP", "EMQX": "authentication → users"},
    )


def _login(bench: Bench) -> Iterator[Finding]:
    users = f"user {bench.roles['device'].username}" if bench.roles["device"].username else "without a user"
    if bench.has_certificate:
        users = "with a certificate"
    yield Finding(name="login", verdict="ok", line=users)
    if bench.two_roles:
        try:
            _first_visit(bench, "aggregator")
        except NotLetIn as refusal:
            yield _refused("aggregator", bench, refusal)
            bench.two_roles = False
            bench.roles["aggregator"] = bench.roles["device"]
        else:
            user = bench.roles["aggregator"].username
            line = f"user {user}" if user else "with a certificate"
            yield Finding(name="aggregator login", verdict="ok", line=line)


def strangers(bench: Bench) -> Iterator[Finding]:
    """Whether somebody without a user gets in."""
    name = "anonymous access"
    try:
        with bench.stranger():
            pass
    except NotLetIn:
        yield Finding(name=name, verdict="ok", line="refused")
        return
    if bench.has_credentials:
        line = "clients without a user get in beside those that have one"
    else:
        line = "whoever reaches the broker may take part and do everything"
    yield Finding(name=name, verdict="warning", line=line, mending=mends.ANONYMOUS)


def websocket(bench: Bench) -> Iterator[Finding]:
    """Whether the other listener speaks MQTT too."""
    name = "WebSocket"
    if bench.roles["device"].transport == "websockets":
        yield Finding(name=name, verdict="ok", line="all of this went over it")
        return
    if bench.websocket is None:
        raise NotChecked("give --websocket ws://host:port/mqtt, if devices shall come that way")
    settings = dataclasses.replace(
        bench.websocket,
        client_id=bench.client_id("web"),
        protocol=bench.protocol,
        clean_start=True,
        session_expiry_seconds=0,
        close_seconds_max=0.5,
    )
    try:
        with Visitor(settings, bench.allowance):
            pass
    except NotLetIn as refusal:
        if refusal.refused:
            line = f"MQTT at {settings.address}{settings.websocket_path}, which lets this user not in"
            yield Finding(name=name, verdict="ok", line=line)
            return
        line = f"no MQTT at {settings.address}{settings.websocket_path}: {_own_words(refusal)}"
        yield Finding(name=name, verdict="missing", line=line, mending=mends.WEBSOCKET)
        return
    yield Finding(name=name, verdict="ok", line=f"MQTT at {settings.address}{settings.websocket_path}")


def identity(bench: Bench) -> Iterator[Finding]:
    """What the broker says it is, and what is known of that version's memory."""
    said = ""
    roles: tuple[Role, ...] = ("aggregator", "device") if bench.two_roles else ("device",)
    for role in roles:
        with bench.visit(role) as visitor:
            for topic in VERSION_TOPICS:
                visitor.listen(topic)
            heard = visitor.hear(bool, seconds=1.0)
        if heard:
            said = heard[0].payload.decode(errors="replace")[:60]
            bench.kind = bench.kind or kind_of(heard[0].topic, said)
            break
    yield durability(said, bench.kind)


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
            mending=mends.DURABLE,
        )
    if kind == "mosquitto":
        return Finding(
            name=name,
            verdict="not checked",
            line=f"{said} keeps all when it is killed only with its own database",
            mending={"mosquitto": "the plugin persist-sqlite with flush_period 0"},
        )
    if "amqtt" in said.lower():
        return Finding(
            name=name,
            verdict="warning",
            line=f"{said} keeps all in memory: a restart loses sessions and models",
            mend="use it for trying only",
        )
    told = f"{said}: not known here" if said else "the broker does not tell its version"
    return Finding(
        name=name, verdict="not checked", line=f"{told}; look whether sessions and retained messages are on its disk"
    )
