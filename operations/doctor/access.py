"""Checks of the access list: what each role must be allowed to do, and what a device must not."""

from collections.abc import Callable, Iterator, Sequence

from operations.doctor import remedies as known
from operations.doctor.broker_under_test import BrokerUnderTest, NotChecked, Role
from operations.doctor.client import ProbeClient, PublishOutcome
from operations.doctor.delivery import holding
from operations.doctor.finding import Finding, Remedies
from wire_contract.link.protocol import Delivery
from wire_contract.topics import TOPICS, Kind

UPWARD: Sequence[Kind] = ("update",)
"""Sent by devices. (Evaluations are sent by evaluators, whose credentials the doctor does not have.)"""
DOWNWARD: Sequence[Kind] = ("model", "chunk", "delta", "receipt")
DENIALS: frozenset[PublishOutcome] = frozenset({"refused", "disconnected"})
"""How brokers deny a publication, if they report it at all."""


def permissions(broker: BrokerUnderTest) -> Iterator[Finding]:
    """Whether each kind of message gets from its writer to its reader; other checks use the result."""
    name = "access"
    outcomes: dict[Kind, PublishOutcome] = {}
    broker.require_two_clients()
    with (
        broker.connect("aggregator", *(broker.filter(kind) for kind in UPWARD)) as aggregator,
        broker.connect("device", *(broker.filter(kind) for kind in DOWNWARD)) as device,
    ):
        # Acknowledged on the same connection, so the broker has processed the subscriptions.
        aggregator.publish(broker.topic("aggregator"), b"after the subscriptions")
        device.publish(broker.topic("presence"), b"after the subscriptions")
        for writer, reader, kinds in ((device, aggregator, UPWARD), (aggregator, device, DOWNWARD)):
            outcomes |= {kind: writer.publish(broker.topic(kind), kind.encode()) for kind in kinds}
            received = reader.receive(_all_of(kinds), seconds=2.0)
            broker.working_kinds |= {kind for kind in kinds if kind in _kinds(received)}
    blocked = [kind for kind in (*UPWARD, *DOWNWARD) if kind not in broker.working_kinds]
    if not blocked:
        who = "each role may" if broker.two_roles else "this user may"
        yield Finding(name=name, verdict="ok", line=f"{who} do everything that the contract requires")
    elif broker.two_roles:
        for kind in blocked:
            yield _blocked(broker, kind, outcomes[kind])
    else:
        denied = [kind for kind in UPWARD if outcomes[kind] in DENIALS]
        for kind in denied:
            yield _blocked(broker, kind, outcomes[kind])
        if not denied:
            raise NotChecked("also give --aggregator-username and its password: this user may not read what it writes")


def _all_of(kinds: Sequence[Kind]) -> Callable[[Sequence[Delivery]], bool]:
    return lambda received: _kinds(received) >= set(kinds)


def _kinds(received: Sequence[Delivery]) -> set[str]:
    return {one.payload.decode(errors="replace") for one in received}


def _blocked(broker: BrokerUnderTest, kind: Kind, outcome: PublishOutcome) -> Finding:
    writer: Role = "aggregator" if TOPICS[kind].writer == "aggregator" else "device"
    reader: Role = "device" if writer == "aggregator" else "aggregator"
    where = broker.topic(kind).replace(f"/{broker.task}/", "/+/")
    user: dict[Role, str] = {role: settings.username or role for role, settings in broker.roles.items()}
    if outcome in DENIALS:
        line = f"the {writer} may not publish {where}"
    else:
        line = f"messages that the {writer} publishes on {where} do not reach the {reader}"
    lines = f"user {user[writer]}: topic write {where}; user {user[reader]}: topic read {where}"
    remedies: Remedies = {**known.ACCESS, "mosquitto": f"in acl_file, {lines}"}
    return Finding(name="access", verdict="missing", line=line, remedies=remedies)


def isolation(broker: BrokerUnderTest) -> Iterator[Finding]:
    """What a device must not be able to do: publish a model, send as another device, read another's receipts."""
    name = "isolation"
    if not broker.has_credentials:
        raise NotChecked(
            "give the credentials of one device and of the aggregator; without users there are no rights to check"
        )
    if not broker.two_roles:
        yield _alone(broker)
        return
    deeds = []
    if _may_publish_a_model(broker):
        deeds.append(("publish a model", f"topic read {_rest(broker, 'model')} for devices, write for the aggregator"))
    if _may_pose_as_another(broker):
        deeds.append(("send updates as another", f"pattern write {broker.root}/+/update/+/%u, and no wider write"))
    if _may_read_anothers_receipts(broker):
        deeds.append(("read another's receipts", f"pattern read {broker.root}/+/receipt/%u, and no wider read"))
    for deed, rule in deeds:
        remedies: Remedies = {**known.ACCESS, "mosquitto": f"in acl_file, {rule}"}
        yield Finding(name=name, verdict="missing", line=f"a device can {deed}", remedies=remedies)
    if not deeds:
        line = "a device can neither publish a model, nor send as another, nor read another's receipts"
        yield Finding(name=name, verdict="ok", line=line)


def _rest(broker: BrokerUnderTest, kind: Kind) -> str:
    return broker.topic(kind).replace(f"/{broker.task}/", "/+/")


def _alone(broker: BrokerUnderTest) -> Finding:
    """With one user only: whether it may publish models."""
    if "model" in broker.working_kinds:
        line = "this user may publish models, and so may a device with this user"
        advice = "give each device its own user, and the aggregator another one"
        return Finding(name="isolation", verdict="warning", line=line, advice=advice, remedies=known.ACCESS)
    raise NotChecked("also give --aggregator-username and its password")


def _forged(broker: BrokerUnderTest, writer: ProbeClient, kind: Kind, *, device: str | None = None) -> bytes:
    """Publishes a message that must not get through; not retained, and on the probes' own topics."""
    payload = f"forged {kind}".encode()
    writer.publish(broker.topic(kind, device=device), payload)
    return payload


def _may_publish_a_model(broker: BrokerUnderTest) -> bool:
    broker.require("model")
    after = b"the aggregator's own"
    with broker.connect("device", broker.filter("model")) as device, broker.connect("aggregator") as aggregator:
        forged = _forged(broker, device, "model")
        if device.disconnects:
            return False
        aggregator.publish(broker.topic("model"), after)
        return holding(forged)(device.receive(holding(after)))


def _may_pose_as_another(broker: BrokerUnderTest) -> bool:
    broker.require("update")
    after = b"the device's own"
    with broker.connect("aggregator", broker.filter("update")) as aggregator:
        aggregator.publish(broker.topic("receipt"), b"after the subscription")
        with broker.connect("device") as device:
            forged = _forged(broker, device, "update", device=broker.other_device)
            if device.disconnects:
                return False
            device.publish(broker.topic("update"), after)
        return holding(forged)(aggregator.receive(holding(after)))


def _may_read_anothers_receipts(broker: BrokerUnderTest) -> bool:
    broker.require("receipt")
    secret, after = b"for the other alone", b"for this device"
    with broker.connect("device", broker.filter("receipt")) as device, broker.connect("aggregator") as aggregator:
        device.subscribe(broker.topic("receipt", device=broker.other_device))
        device.publish(broker.topic("presence"), b"after the subscriptions")
        if device.disconnects:
            return False
        aggregator.publish(broker.topic("receipt", device=broker.other_device), secret)
        aggregator.publish(broker.topic("receipt"), after)
        return holding(secret)(device.receive(holding(after)))
