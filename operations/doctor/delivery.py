"""What the broker keeps, and what it brings again: retained messages, sessions, redelivery, wills, deep topics."""

import time
from collections.abc import Callable, Iterator, Sequence

from operations.doctor import finding as mends
from operations.doctor.bench import Bench, NotChecked
from operations.doctor.finding import Finding
from operations.doctor.visitor import ANSWER_SECONDS_MAX, Broken, Visitor
from wire_contract.limits import TOPIC_SLASHES_MAX
from wire_contract.link.mqtt_settings import DAY_SECONDS
from wire_contract.link.protocol import Delivery, Will

SESSION_DAYS = 30
"""The programs ask for so many."""
ABSENT_MESSAGES = 5
REDELIVERED_MESSAGES = 3
REDELIVERY_SECONDS_MAX = 35.0
"""nats-server delivers again only after its `ack_wait` of 30 s, also to a client that has come back."""
REDELIVERY_SECONDS_WANTED = 10.0
_QUIET_SECONDS = 0.5
"""So long nothing more has come: then nothing more comes."""


def holding(payload: bytes) -> Callable[[Sequence[Delivery]], bool]:
    """Whether this payload is among what was heard."""
    return lambda heard: any(delivery.payload == payload for delivery in heard)


def retained(bench: Bench) -> Iterator[Finding]:
    """A model for who comes later, and an empty payload that takes it away."""
    name, kept = "retained", b"kept for who comes later"
    topic = bench.need("model")
    with bench.visit("aggregator") as writer:
        if not writer.granted.get("RetainAvailable", 1):
            line = "the broker keeps no message for who comes later, so nobody gets the model"
            yield Finding(name=name, verdict="missing", line=line, mending=mends.RETAINED)
            return
        if bench.retain(writer, "aggregator", topic, kept) != "taken":
            line = "the broker does not take retained messages, so nobody gets the model"
            yield Finding(name=name, verdict="missing", line=line, mending=mends.RETAINED)
            return
        with bench.visit("device", bench.filter("model")) as late:
            came = [one for one in late.hear(holding(kept)) if one.payload == kept]
        if not came or not came[0].retained:
            line = "the newest message is not brought to who comes later, so nobody gets the model"
            yield Finding(name=name, verdict="missing", line=line, mending=mends.RETAINED)
            return
        writer.publish(topic, b"", retain=True)
        with bench.visit("device", bench.filter("model")) as later:
            still = later.hear(holding(kept), seconds=_QUIET_SECONDS)
    if still:
        line = "an empty payload does not delete it, so old chunks of models stay for ever"
        yield Finding(name=name, verdict="missing", line=line, mending=mends.RETAINED)
        return
    yield Finding(name=name, verdict="ok", line="kept for who comes later, deleted by an empty payload")


def durable_session(bench: Bench) -> Iterator[Finding]:
    """What comes while the aggregator is away waits for it."""
    name = "durable session"
    topic = bench.need("update")
    payloads = [b"while you were away %d" % number for number in range(ABSENT_MESSAGES)]
    with bench.session("aggregator") as session:
        with bench.visit("aggregator", bench.filter("update"), session=session) as reader:
            reader.publish(bench.topic("receipt"), b"after the subscription")
        with bench.visit("device") as writer:
            writer.publish_all([(topic, payload) for payload in payloads])
        with bench.visit("aggregator", bench.filter("update"), session=session) as reader:
            present = reader.session_present
            heard = {one.payload for one in reader.hear(holding(payloads[-1]))} & set(payloads)
    if len(heard) == ABSENT_MESSAGES:
        said = "" if present else "; though the broker says it knows no session"
        yield Finding(name=name, verdict="ok", line=f"messages wait for a client that is away{said}")
        return
    line = f"of {ABSENT_MESSAGES} messages for a client that was away, {len(heard)} were kept"
    mend = "" if bench.has_credentials else "give clients a user: some brokers keep nothing for anonymous ones"
    yield Finding(name=name, verdict="missing", line=line, mend=mend, mending=mends.SESSION)


def unqueued(bench: Bench) -> Iterator[Finding]:
    """Who was away gets the newest manifest alone, for which it listens at QoS 0."""
    name = "newest only"
    topic = bench.need("model")
    payloads = [b"version %d" % number for number in range(ABSENT_MESSAGES)]
    with bench.session("device") as session:
        with bench.visit("device", bench.filter("model"), quality=0, session=session):
            pass  # connected and subscribed, then away
        with bench.visit("aggregator") as writer:
            for payload in payloads:
                bench.retain(writer, "aggregator", topic, payload)
        with bench.visit("device", bench.filter("model"), quality=0, session=session) as device:
            heard = device.hear(lambda heard: any(one.retained for one in heard), quiet_seconds=ANSWER_SECONDS_MAX)
    if [one.payload for one in heard if one.retained] != payloads[-1:]:
        raise NotChecked("the retained manifest did not come back, by which it would have been seen")
    if len(heard) > 1:
        line = f"of {ABSENT_MESSAGES} versions that a device missed it was brought {len(heard)}: it pays for each one"
        yield Finding(name=name, verdict="warning", line=line, mending=mends.UNQUEUED)
    else:
        yield Finding(name=name, verdict="ok", line="who was away is brought the newest manifest, and none before it")


def session_expiry(bench: Bench) -> Iterator[Finding]:
    """How long the broker promises to keep a session."""
    name = "session's life"
    if bench.protocol != "5":
        raise NotChecked(f"MQTT 3.1.1 brokers do not say it; {SESSION_DAYS} days are good")
    asked = SESSION_DAYS * DAY_SECONDS
    with (
        bench.session("aggregator") as session,
        bench.visit("aggregator", session=session, session_seconds=asked) as visitor,
    ):
        seconds = visitor.granted.get("SessionExpiryInterval", asked)
    if seconds >= asked:
        silently = "; persistent_client_expiration may still cut it" if bench.kind == "mosquitto" else ""
        yield Finding(name=name, verdict="ok", line=f"{SESSION_DAYS} days, so the broker says{silently}")
        return
    line = f"sessions end after {seconds / 3600:.1f} hours: who is away longer loses what waits"
    yield Finding(name=name, verdict="warning", line=line, mending=mends.SESSION)


def redelivery(bench: Bench) -> Iterator[Finding]:
    """What was delivered and not acknowledged comes again after a connection was lost."""
    name = "QoS 1 redelivery"
    topic = bench.need("update")
    payloads = {b"not acknowledged %d" % number for number in range(REDELIVERED_MESSAGES)}

    def all_came(heard: Sequence[Delivery]) -> bool:
        return {one.payload for one in heard} >= payloads

    with (
        bench.session("aggregator") as session,
        bench.line("aggregator") as line,
        bench.visit("aggregator", bench.filter("update"), session=session, line=line) as reader,
        bench.visit("device") as writer,
    ):
        reader.publish(bench.topic("receipt"), b"after the subscription")
        writer.publish_all([(topic, payload) for payload in sorted(payloads)])
        if not all_came(reader.hear(all_came, ack=False)):
            raise Broken("what was published was not delivered")
        line.cut()
        line.mend()
        since = time.monotonic()
        again = reader.hear(all_came, seconds=REDELIVERY_SECONDS_MAX, through_cuts=True)
        seconds = time.monotonic() - since
    if not all_came(again):
        said = f"of {REDELIVERED_MESSAGES} unacknowledged messages, {len(again)} came again within {seconds:.0f} s"
        yield Finding(name=name, verdict="missing", line=said, mending=mends.SESSION)
    elif seconds > REDELIVERY_SECONDS_WANTED:
        said = f"what was not acknowledged comes again, but {seconds:.0f} s after the connection was back"
        yield Finding(name=name, verdict="warning", line=said, mending={"NATS": 'mqtt { ack_wait: "10s" }'})
    elif not all(one.duplicate for one in again):
        said = "what was not acknowledged comes again, but without DUP; the ledger does not rely on it"
        yield Finding(name=name, verdict="warning", line=said)
    else:
        yield Finding(name=name, verdict="ok", line="what was not acknowledged comes again, marked DUP")


def last_will(bench: Bench) -> Iterator[Finding]:
    """The broker says that a device is gone."""
    bench.need_both()
    name, online, gone = "will", b"online", b"gone without a goodbye"
    topic = bench.topic("presence")
    with bench.visit("aggregator", bench.filter("presence")) as reader, bench.line("device") as line:
        reader.publish(bench.topic("receipt"), b"after the subscription")
        with bench.visit("device", will=Will(topic, gone), line=line) as device:
            device.publish(topic, online)
            if not holding(online)(reader.hear(holding(online))):
                raise NotChecked("nobody here may read …/presence/+; give users that may")
            bench.may_be_retained(topic, "device")
            line.cut()
            came = holding(gone)(reader.hear(holding(gone), seconds=2 * ANSWER_SECONDS_MAX))
    if came:
        yield Finding(name=name, verdict="ok", line="published when a connection breaks")
        return
    said = "not published when a connection breaks, so a device that is gone looks as if it were there"
    mending: mends.Mending = {"mosquitto": "retain_available true, and no per_listener_settings true (2.0 has a bug)"}
    yield Finding(name=name, verdict="missing", line=said, mending=mending)


def depth(bench: Bench) -> Iterator[Finding]:
    """The deepest topic of the contract, and the deepest that it may ever have."""
    name = "topic depth"
    deepest = bench.need("chunk")
    deeper = deepest + "/0" * (TOPIC_SLASHES_MAX - deepest.count("/"))
    # One level is the task's own name, so the filter covers both.
    with (
        bench.visit("device", f"{bench.root}/{bench.task}/model/#") as reader,
        bench.visit("aggregator") as writer,
    ):
        passes = _passes(writer, reader, deeper)
    if passes:
        yield Finding(name=name, verdict="ok", line=f"{TOPIC_SLASHES_MAX} slashes pass")
    else:
        line = f"the contract's {deepest.count('/')} slashes pass; {TOPIC_SLASHES_MAX} do not, or may not"
        yield Finding(name=name, verdict="ok", line=line)


def _passes(writer: Visitor, reader: Visitor, topic: str) -> bool:
    payload = b"as deep as may be"
    writer.publish(topic, payload)
    return holding(payload)(reader.hear(holding(payload), seconds=1.0))
