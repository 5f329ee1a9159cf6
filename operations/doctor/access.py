"""The access list from both sides: what each role must be able to do, and what a device must not."""

from collections.abc import Callable, Iterator, Sequence

from operations.doctor import finding as mends
from operations.doctor.bench import Bench, NotChecked, Role
from operations.doctor.delivery import holding
from operations.doctor.finding import Finding
from operations.doctor.visitor import Fate, Visitor
from wire_contract.link.protocol import Delivery
from wire_contract.topics import TOPICS, Kind

UPWARD: Sequence[Kind] = ("update",)
"""What a device sends. (Evaluations come from evaluators, whose user the doctor does not have.)"""
DOWNWARD: Sequence[Kind] = ("model", "chunk", "delta", "receipt")
DENIALS: frozenset[Fate] = frozenset({"refused", "lost"})
"""How a broker says no, if it says it at all."""


def rights(bench: Bench) -> Iterator[Finding]:
    """Whether each kind of message passes from who writes it to who reads it; notes it for the other checks."""
    name = "access"
    fates: dict[Kind, Fate] = {}
    bench.need_both()
    with (
        bench.visit("aggregator", *(bench.filter(kind) for kind in UPWARD)) as aggregator,
        bench.visit("device", *(bench.filter(kind) for kind in DOWNWARD)) as device,
    ):
        # An acknowledgement on the same connection: what was subscribed to before is known to the broker.
        aggregator.publish(bench.topic("aggregator"), b"after the subscriptions")
        device.publish(bench.topic("presence"), b"after the subscriptions")
        for writer, reader, kinds in ((device, aggregator, UPWARD), (aggregator, device, DOWNWARD)):
            fates |= {kind: writer.publish(bench.topic(kind), kind.encode()) for kind in kinds}
            heard = reader.hear(_all_of(kinds), seconds=2.0)
            bench.open_ways |= {kind for kind in kinds if kind in _kinds(heard)}
    blocked = [kind for kind in (*UPWARD, *DOWNWARD) if kind not in bench.open_ways]
    if not blocked:
        who = "each role may" if bench.two_roles else "this user may"
        yield Finding(name=name, verdict="ok", line=f"{who} do what the contract asks of it")
    elif bench.two_roles:
        for kind in blocked:
            yield _blocked(bench, kind, fates[kind])
    else:
        denied = [kind for kind in UPWARD if fates[kind] in DENIALS]
        for kind in denied:
            yield _blocked(bench, kind, fates[kind])
        if not denied:
            raise NotChecked("give --aggregator-username and its password too: this user alone does not hear itself")


def _all_of(kinds: Sequence[Kind]) -> Callable[[Sequence[Delivery]], bool]:
    return lambda heard: _kinds(heard) >= set(kinds)


def _kinds(heard: Sequence[Delivery]) -> set[str]:
    return {one.payload.decode(errors="replace") for one in heard}


def _blocked(bench: Bench, kind: Kind, fate: Fate) -> Finding:
    writer: Role = "aggregator" if TOPICS[kind].writer == "aggregator" else "device"
    reader: Role = "device" if writer == "aggregator" else "aggregator"
    where = bench.topic(kind).replace(f"/{bench.task}/", "/+/")
    user: dict[Role, str] = {role: settings.username or role for role, settings in bench.roles.items()}
    if fate in DENIALS:
        line = f"the {writer} may not publish {where}"
    else:
        line = f"what the {writer} publishes on {where} does not reach the {reader}"
    lines = f"user {user[writer]}: topic write {where}; user {user[reader]}: topic read {where}"
    mending: mends.Mending = {**mends.ACCESS, "mosquitto": f"in acl_file, {lines}"}
    return Finding(name="access", verdict="missing", line=line, mending=mending)


def isolation(bench: Bench) -> Iterator[Finding]:
    """What a device must not be able to do: publish a model, hand in as another device, read another's receipts."""
    name = "isolation"
    if not bench.has_credentials:
        raise NotChecked("give the user of one device and that of the aggregator; without users all may do all")
    if not bench.two_roles:
        yield _alone(bench)
        return
    deeds = []
    if _may_publish_a_model(bench):
        deeds.append(("publish a model", f"topic read {_rest(bench, 'model')} for devices, write for the aggregator"))
    if _may_pose_as_another(bench):
        deeds.append(("hand in updates as another", f"pattern write {bench.root}/+/update/+/%u, and no wider write"))
    if _may_read_anothers_receipts(bench):
        deeds.append(("read another's receipts", f"pattern read {bench.root}/+/receipt/%u, and no wider read"))
    for deed, rule in deeds:
        mending: mends.Mending = {**mends.ACCESS, "mosquitto": f"in acl_file, {rule}"}
        yield Finding(name=name, verdict="missing", line=f"a device may {deed}", mending=mending)
    if not deeds:
        line = "a device may neither publish a model nor pose as another nor read its receipts"
        yield Finding(name=name, verdict="ok", line=line)


def _rest(bench: Bench, kind: Kind) -> str:
    return bench.topic(kind).replace(f"/{bench.task}/", "/+/")


def _alone(bench: Bench) -> Finding:
    """With one user only: what it may do to itself."""
    if "model" in bench.open_ways:
        line = "this user may publish models; a device of this user could do so too"
        mend = "give each device a user of its own, and the aggregator another"
        return Finding(name="isolation", verdict="warning", line=line, mend=mend, mending=mends.ACCESS)
    raise NotChecked("give --aggregator-username and its password too")


def _forged(bench: Bench, writer: Visitor, kind: Kind, *, device: str | None = None) -> bytes:
    """Publishes what must not pass; never retained, and on the probes' own topics."""
    payload = f"forged {kind}".encode()
    writer.publish(bench.topic(kind, device=device), payload)
    return payload


def _may_publish_a_model(bench: Bench) -> bool:
    bench.need("model")
    after = b"the aggregator's own"
    with bench.visit("device", bench.filter("model")) as device, bench.visit("aggregator") as aggregator:
        forged = _forged(bench, device, "model")
        if device.endings:
            return False
        aggregator.publish(bench.topic("model"), after)
        return holding(forged)(device.hear(holding(after)))


def _may_pose_as_another(bench: Bench) -> bool:
    bench.need("update")
    after = b"the device's own"
    with bench.visit("aggregator", bench.filter("update")) as aggregator:
        aggregator.publish(bench.topic("receipt"), b"after the subscription")
        with bench.visit("device") as device:
            forged = _forged(bench, device, "update", device=bench.other_device)
            if device.endings:
                return False
            device.publish(bench.topic("update"), after)
        return holding(forged)(aggregator.hear(holding(after)))


def _may_read_anothers_receipts(bench: Bench) -> bool:
    bench.need("receipt")
    secret, after = b"for the other alone", b"for this device"
    with bench.visit("device", bench.filter("receipt")) as device, bench.visit("aggregator") as aggregator:
        device.listen(bench.topic("receipt", device=bench.other_device))
        device.publish(bench.topic("presence"), b"after the subscriptions")
        if device.endings:
            return False
        aggregator.publish(bench.topic("receipt", device=bench.other_device), secret)
        aggregator.publish(bench.topic("receipt"), after)
        return holding(secret)(device.hear(holding(after)))
