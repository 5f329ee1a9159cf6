"""What the broker keeps, and what it brings again: retained messages, sessions, redelivery, wills, deep topics."""

import time
from collections.abc import Callable, Iterator, Sequence

from operations.doctor import remedies as known
from operations.doctor.broker_under_test import BrokerUnderTest, NotChecked
from operations.doctor.client import ANSWER_SECONDS_MAX, ConnectionLost, ProbeClient
from operations.doctor.finding import Finding, Remedies
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
    """Whether this payload is among what was received."""
    return lambda received: any(delivery.payload == payload for delivery in received)


def retained(broker: BrokerUnderTest) -> Iterator[Finding]:
    """A model for who comes later, and an empty payload that takes it away."""
    name, kept = "retained", b"kept for who comes later"
    topic = broker.require("model")
    with broker.connect("aggregator") as writer:
        if not writer.granted.get("RetainAvailable", 1):
            line = "the broker keeps no message for who comes later, so nobody gets the model"
            yield Finding(name=name, verdict="missing", line=line, remedies=known.RETAINED)
            return
        if broker.retain(writer, "aggregator", topic, kept) != "acknowledged":
            line = "the broker does not take retained messages, so nobody gets the model"
            yield Finding(name=name, verdict="missing", line=line, remedies=known.RETAINED)
            return
        with broker.connect("device", broker.filter("model")) as late:
            came = [one for one in late.receive(holding(kept)) if one.payload == kept]
        if not came or not came[0].retained:
            line = "the newest message is not brought to who comes later, so nobody gets the model"
            yield Finding(name=name, verdict="missing", line=line, remedies=known.RETAINED)
            return
        writer.publish(topic, b"", retain=True)
        with broker.connect("device", broker.filter("model")) as later:
            still = later.receive(holding(kept), seconds=_QUIET_SECONDS)
    if still:
        line = "an empty payload does not delete it, so old chunks of models stay for ever"
        yield Finding(name=name, verdict="missing", line=line, remedies=known.RETAINED)
        return
    yield Finding(name=name, verdict="ok", line="kept for who comes later, deleted by an empty payload")


def durable_session(broker: BrokerUnderTest) -> Iterator[Finding]:
    """What comes while the aggregator is away waits for it."""
    name = "durable session"
    topic = broker.require("update")
    payloads = [b"while you were away %d" % number for number in range(ABSENT_MESSAGES)]
    with broker.session("aggregator") as session:
        with broker.connect("aggregator", broker.filter("update"), session=session) as reader:
            reader.publish(broker.topic("receipt"), b"after the subscription")
        with broker.connect("device") as writer:
            writer.publish_all([(topic, payload) for payload in payloads])
        with broker.connect("aggregator", broker.filter("update"), session=session) as reader:
            present = reader.session_present
            received = {one.payload for one in reader.receive(holding(payloads[-1]))} & set(payloads)
    if len(received) == ABSENT_MESSAGES:
        said = "" if present else "; though the broker says it knows no session"
        yield Finding(name=name, verdict="ok", line=f"messages wait for a client that is away{said}")
        return
    line = f"of {ABSENT_MESSAGES} messages for a client that was away, {len(received)} were kept"
    advice = "" if broker.has_credentials else "give clients a user: some brokers keep nothing for anonymous ones"
    yield Finding(name=name, verdict="missing", line=line, advice=advice, remedies=known.SESSION)


def unqueued(broker: BrokerUnderTest) -> Iterator[Finding]:
    """Who was away gets the newest manifest alone, for which it listens at QoS 0."""
    name = "newest only"
    topic = broker.require("model")
    payloads = [b"version %d" % number for number in range(ABSENT_MESSAGES)]
    with broker.session("device") as session:
        with broker.connect("device", broker.filter("model"), qos=0, session=session):
            pass  # connected and subscribed, then away
        with broker.connect("aggregator") as writer:
            for payload in payloads:
                broker.retain(writer, "aggregator", topic, payload)
        with broker.connect("device", broker.filter("model"), qos=0, session=session) as device:
            received = device.receive(
                lambda received: any(one.retained for one in received), quiet_seconds=ANSWER_SECONDS_MAX
            )
    if [one.payload for one in received if one.retained] != payloads[-1:]:
        raise NotChecked("the retained manifest did not come back, by which it would have been seen")
    if len(received) > 1:
        line = (
            f"of {ABSENT_MESSAGES} versions that a device missed it was brought {len(received)}: it pays for each one"
        )
        yield Finding(name=name, verdict="warning", line=line, remedies=known.UNQUEUED)
    else:
        yield Finding(name=name, verdict="ok", line="who was away is brought the newest manifest, and none before it")


def session_expiry(broker: BrokerUnderTest) -> Iterator[Finding]:
    """How long the broker promises to keep a session."""
    name = "session's life"
    if broker.protocol != "5":
        raise NotChecked(f"MQTT 3.1.1 brokers do not say it; {SESSION_DAYS} days are good")
    asked = SESSION_DAYS * DAY_SECONDS
    with (
        broker.session("aggregator") as session,
        broker.connect("aggregator", session=session, session_seconds=asked) as client,
    ):
        seconds = client.granted.get("SessionExpiryInterval", asked)
    if seconds >= asked:
        silently = "; persistent_client_expiration may still cut it" if broker.kind == "mosquitto" else ""
        yield Finding(name=name, verdict="ok", line=f"{SESSION_DAYS} days, so the broker says{silently}")
        return
    line = f"sessions end after {seconds / 3600:.1f} hours: who is away longer loses what waits"
    yield Finding(name=name, verdict="warning", line=line, remedies=known.SESSION)


def redelivery(broker: BrokerUnderTest) -> Iterator[Finding]:
    """What was delivered and not acknowledged comes again after a connection was lost."""
    name = "QoS 1 redelivery"
    topic = broker.require("update")
    payloads = {b"not acknowledged %d" % number for number in range(REDELIVERED_MESSAGES)}

    def all_came(received: Sequence[Delivery]) -> bool:
        return {one.payload for one in received} >= payloads

    with (
        broker.session("aggregator") as session,
        broker.proxy("aggregator") as proxy,
        broker.connect("aggregator", broker.filter("update"), session=session, proxy=proxy) as reader,
        broker.connect("device") as writer,
    ):
        reader.publish(broker.topic("receipt"), b"after the subscription")
        writer.publish_all([(topic, payload) for payload in sorted(payloads)])
        if not all_came(reader.receive(all_came, ack=False)):
            raise ConnectionLost("what was published was not delivered")
        proxy.cut()
        proxy.restore()
        since = time.monotonic()
        again = reader.receive(all_came, seconds=REDELIVERY_SECONDS_MAX, across_reconnects=True)
        seconds = time.monotonic() - since
    if not all_came(again):
        said = f"of {REDELIVERED_MESSAGES} unacknowledged messages, {len(again)} came again within {seconds:.0f} s"
        yield Finding(name=name, verdict="missing", line=said, remedies=known.SESSION)
    elif seconds > REDELIVERY_SECONDS_WANTED:
        said = f"what was not acknowledged comes again, but {seconds:.0f} s after the connection was back"
        yield Finding(name=name, verdict="warning", line=said, remedies={"NATS": 'mqtt { ack_wait: "10s" }'})
    elif not all(one.duplicate for one in again):
        said = "what was not acknowledged comes again, but without DUP; the ledger does not rely on it"
        yield Finding(name=name, verdict="warning", line=said)
    else:
        yield Finding(name=name, verdict="ok", line="what was not acknowledged comes again, marked DUP")


def last_will(broker: BrokerUnderTest) -> Iterator[Finding]:
    """The broker says that a device is gone."""
    broker.require_two_clients()
    name, online, gone = "will", b"online", b"gone without a goodbye"
    topic = broker.topic("presence")
    with broker.connect("aggregator", broker.filter("presence")) as reader, broker.proxy("device") as proxy:
        reader.publish(broker.topic("receipt"), b"after the subscription")
        with broker.connect("device", will=Will(topic, gone), proxy=proxy) as device:
            device.publish(topic, online)
            if not holding(online)(reader.receive(holding(online))):
                raise NotChecked("nobody here may read …/presence/+; give users that may")
            broker.note_retained(topic, "device")
            proxy.cut()
            came = holding(gone)(reader.receive(holding(gone), seconds=2 * ANSWER_SECONDS_MAX))
    if came:
        yield Finding(name=name, verdict="ok", line="published when a connection breaks")
        return
    said = "not published when a connection breaks, so a device that is gone looks as if it were there"
    remedies: Remedies = {"mosquitto": "retain_available true, and no per_listener_settings true (2.0 has a bug)"}
    yield Finding(name=name, verdict="missing", line=said, remedies=remedies)


def depth(broker: BrokerUnderTest) -> Iterator[Finding]:
    """The deepest topic of the contract, and the deepest that it may ever have."""
    name = "topic depth"
    deepest = broker.require("chunk")
    deeper = deepest + "/0" * (TOPIC_SLASHES_MAX - deepest.count("/"))
    # One level is the task's own name, so the filter covers both.
    with (
        broker.connect("device", f"{broker.root}/{broker.task}/model/#") as reader,
        broker.connect("aggregator") as writer,
    ):
        passes = _passes(writer, reader, deeper)
    if passes:
        yield Finding(name=name, verdict="ok", line=f"{TOPIC_SLASHES_MAX} slashes pass")
    else:
        line = f"the contract's {deepest.count('/')} slashes pass; {TOPIC_SLASHES_MAX} do not, or may not"
        yield Finding(name=name, verdict="ok", line=line)


def _passes(writer: ProbeClient, reader: ProbeClient, topic: str) -> bool:
    payload = b"as deep as may be"
    writer.publish(topic, payload)
    return holding(payload)(reader.receive(holding(payload), seconds=1.0))
