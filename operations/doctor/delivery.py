"""Checks of delivery: retained messages, durable sessions, redelivery, wills, and topic depth."""

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
"""Session expiry that the programs request."""
ABSENT_MESSAGES = 5
"""Chosen: more than one, since some brokers keep only the last; few, since the queue check counts."""
REDELIVERED_MESSAGES = 3
"""Chosen: more than one, so that order and completeness can be wrong."""
REDELIVERY_SECONDS_MAX = 35.0
"""nats-server redelivers only after its `ack_wait` of 30 s, also to a client that has reconnected."""
REDELIVERY_SECONDS_WANTED = 10.0
"""A later redelivery works, but delays merging after each lost connection."""
_QUIET_SECONDS = 0.5
"""After this time without a message, no more is expected."""


def holding(payload: bytes) -> Callable[[Sequence[Delivery]], bool]:
    """Whether this payload was received."""
    return lambda received: any(delivery.payload == payload for delivery in received)


def retained(broker: BrokerUnderTest) -> Iterator[Finding]:
    """A retained message reaches later subscribers, and an empty payload deletes it."""
    name, kept = "retained", b"kept for who comes later"
    topic = broker.require("model")
    with broker.connect("aggregator") as writer:
        if not writer.granted.get("RetainAvailable", 1):
            line = "the broker keeps no retained messages, so no device receives the model"
            yield Finding(name=name, verdict="missing", line=line, remedies=known.RETAINED)
            return
        if broker.retain(writer, "aggregator", topic, kept) != "acknowledged":
            line = "the broker does not accept retained messages, so no device receives the model"
            yield Finding(name=name, verdict="missing", line=line, remedies=known.RETAINED)
            return
        with broker.connect("device", broker.filter("model")) as late:
            came = [one for one in late.receive(holding(kept)) if one.payload == kept]
        if not came or not came[0].retained:
            line = "later subscribers do not receive the retained message, so no device receives the model"
            yield Finding(name=name, verdict="missing", line=line, remedies=known.RETAINED)
            return
        writer.publish(topic, b"", retain=True)
        with broker.connect("device", broker.filter("model")) as later:
            still = later.receive(holding(kept), seconds=_QUIET_SECONDS)
    if still:
        line = "an empty payload does not delete a retained message, so old model chunks stay forever"
        yield Finding(name=name, verdict="missing", line=line, remedies=known.RETAINED)
        return
    yield Finding(name=name, verdict="ok", line="delivered to later subscribers, deleted by an empty payload")


def durable_session(broker: BrokerUnderTest) -> Iterator[Finding]:
    """Messages are queued while the aggregator is offline."""
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
        said = "" if present else ", although the broker reports no session"
        yield Finding(name=name, verdict="ok", line=f"messages are queued for an offline client{said}")
        return
    line = f"of {ABSENT_MESSAGES} messages for an offline client, {len(received)} were kept"
    advice = "" if broker.has_credentials else "use clients with a user: some brokers keep nothing for anonymous ones"
    yield Finding(name=name, verdict="missing", line=line, advice=advice, remedies=known.SESSION)


def unqueued(broker: BrokerUnderTest) -> Iterator[Finding]:
    """A device that was offline receives only the newest manifest, because it subscribes at QoS 0."""
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
        raise NotChecked("the retained manifest did not arrive, which this check needs")
    if len(received) > 1:
        line = f"a device that missed {ABSENT_MESSAGES} versions received {len(received)} manifests; each costs traffic"
        yield Finding(name=name, verdict="warning", line=line, remedies=known.UNQUEUED)
    else:
        yield Finding(name=name, verdict="ok", line="after an absence, a device receives only the newest manifest")


def session_expiry(broker: BrokerUnderTest) -> Iterator[Finding]:
    """How long the broker keeps a session."""
    name = "session's life"
    if broker.protocol != "5":
        raise NotChecked(f"brokers with MQTT 3.1.1 do not report it; {SESSION_DAYS} days are recommended")
    asked = SESSION_DAYS * DAY_SECONDS
    with (
        broker.session("aggregator") as session,
        broker.connect("aggregator", session=session, session_seconds=asked) as client,
    ):
        seconds = client.granted.get("SessionExpiryInterval", asked)
    if seconds >= asked:
        silently = "; persistent_client_expiration may shorten it" if broker.kind == "mosquitto" else ""
        yield Finding(name=name, verdict="ok", line=f"{SESSION_DAYS} days, as the broker reports{silently}")
        return
    line = f"sessions expire after {seconds / 3600:.1f} hours; later, queued messages are lost"
    yield Finding(name=name, verdict="warning", line=line, remedies=known.SESSION)


def redelivery(broker: BrokerUnderTest) -> Iterator[Finding]:
    """Messages that were delivered but not acknowledged are redelivered after a lost connection."""
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
            raise ConnectionLost("published messages were not delivered")
        proxy.cut()
        proxy.restore()
        since = time.monotonic()
        again = reader.receive(all_came, seconds=REDELIVERY_SECONDS_MAX, across_reconnects=True)
        seconds = time.monotonic() - since
    if not all_came(again):
        said = (
            f"of {REDELIVERED_MESSAGES} unacknowledged messages, {len(again)} were redelivered within {seconds:.0f} s"
        )
        yield Finding(name=name, verdict="missing", line=said, remedies=known.SESSION)
    elif seconds > REDELIVERY_SECONDS_WANTED:
        said = f"unacknowledged messages are redelivered, but only {seconds:.0f} s after reconnecting"
        yield Finding(name=name, verdict="warning", line=said, remedies={"NATS": 'mqtt { ack_wait: "10s" }'})
    elif not all(one.duplicate for one in again):
        said = "unacknowledged messages are redelivered, but without DUP; the ledger does not rely on it"
        yield Finding(name=name, verdict="warning", line=said)
    else:
        yield Finding(name=name, verdict="ok", line="unacknowledged messages are redelivered, marked DUP")


def last_will(broker: BrokerUnderTest) -> Iterator[Finding]:
    """The broker publishes the will of a device that has lost its connection."""
    broker.require_two_clients()
    name, online, gone = "will", b"online", b"gone without a goodbye"
    topic = broker.topic("presence")
    with broker.connect("aggregator", broker.filter("presence")) as reader, broker.proxy("device") as proxy:
        reader.publish(broker.topic("receipt"), b"after the subscription")
        with broker.connect("device", will=Will(topic, gone), proxy=proxy) as device:
            device.publish(topic, online)
            if not holding(online)(reader.receive(holding(online))):
                raise NotChecked("the given users may not read …/presence/+; give users that may")
            broker.note_retained(topic, "device")
            proxy.cut()
            came = holding(gone)(reader.receive(holding(gone), seconds=2 * ANSWER_SECONDS_MAX))
    if came:
        yield Finding(name=name, verdict="ok", line="published when a connection is lost")
        return
    said = "not published when a connection is lost, so offline devices look online"
    remedies: Remedies = {"mosquitto": "retain_available true, and no per_listener_settings true (2.0 has a bug)"}
    yield Finding(name=name, verdict="missing", line=said, remedies=remedies)


def depth(broker: BrokerUnderTest) -> Iterator[Finding]:
    """The deepest topic that is used, and the deepest that the wire format allows."""
    name = "topic depth"
    deepest = broker.require("chunk")
    deeper = deepest + "/0" * (TOPIC_SLASHES_MAX - deepest.count("/"))
    # Both topics are below this filter.
    with (
        broker.connect("device", f"{broker.root}/{broker.task}/model/#") as reader,
        broker.connect("aggregator") as writer,
    ):
        passes = _passes(writer, reader, deeper)
    if passes:
        yield Finding(name=name, verdict="ok", line=f"topics with {TOPIC_SLASHES_MAX} slashes get through")
    else:
        line = f"topics with {deepest.count('/')} slashes get through, which is enough; {TOPIC_SLASHES_MAX} do not"
        yield Finding(name=name, verdict="ok", line=line)


def _passes(writer: ProbeClient, reader: ProbeClient, topic: str) -> bool:
    payload = b"as deep as may be"
    writer.publish(topic, payload)
    return holding(payload)(reader.receive(holding(payload), seconds=1.0))
