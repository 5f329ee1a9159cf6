"""Checks of limits: packet size, queue length, and messages in flight, with a bounded number of messages."""

from collections.abc import Callable, Iterator

from operations.doctor import remedies as known
from operations.doctor.broker_under_test import BrokerUnderTest
from operations.doctor.client import ConnectionLost, ProbeClient, PublishOutcome
from operations.doctor.finding import Finding
from wire_contract.limits import KIB, MIB
from wire_contract.link.mqtt_rules import packet_bytes

PACKET_BYTES_NEEDED = 64 * KIB
"""Model chunks have 32 KiB; manifests and updates may be somewhat larger."""
PACKET_BYTES_WANTED = MIB - KIB
"""The largest packet that the programs send."""
PACKET_STEP_BYTES = 32 * KIB
"""How exactly the limit is found: from 64 KiB to 1 MiB that takes five probes of up to `PACKET_SECONDS_MAX` for an
answer; finer steps would take more of the minute."""
PACKET_SECONDS_MAX = 5.0
"""Chosen: 1 MiB at 1.7 Mbit/s; a slower connection is reported as slow, not as a limit."""
PUBLISH_SECONDS_MAX = 12.0
"""For publishing all messages of the queue check; on a slow connection fewer are checked, and the finding says so."""
DRAIN_SECONDS_MAX = 12.0
"""Chosen: as long as publishing the same messages may take, and within `EXAMINATION_SECONDS_MAX` together with it."""
IN_FLIGHT_WANTED = 100
"""The aggregator commits at most as many updates at once as the broker delivers before an acknowledgement. 100 is what
our broker configurations allow (`max_inflight_messages`)."""
RECEIVE_MAXIMUM = 128
"""Above `IN_FLIGHT_WANTED`, so that a broker's own limit is what is seen."""
_QUIET_SECONDS = 1.0
"""Chosen, not measured: after this time without a message, no more is expected. A shorter one takes a slow broker for a
limited one."""


def largest(passes: Callable[[int], bool], *, low: int, high: int, step: int) -> int:
    """The largest size that passes, to within `step`, by bisection; `low` passes and `high` does not."""
    while high - low > step:
        middle = (low + high) // 2
        if passes(middle):
            low = middle
        else:
            high = middle
    return low


class _PacketProbe:
    """Publishes packets of given sizes from the device to the aggregator; keeps the reason of the last failure."""

    def __init__(self, broker: BrokerUnderTest, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self.failure = ""
        self.is_slow = False
        """The last failure may be due to a slow connection: nothing arrived in time."""

    def passes(self, size_bytes: int) -> bool:
        """Whether a packet of this size gets through. Uses new connections: some brokers close them."""
        overhead = packet_bytes(self._topic, b"") + 3  # the length field can be up to 3 bytes longer
        large, small = bytes(size_bytes - overhead), b"after the large one"
        with self._broker.connect("aggregator", self._broker.filter("update")) as reader:
            reader.publish(self._broker.topic("receipt"), b"after the subscription")
            with self._broker.connect("device") as writer:
                outcome = writer.publish(self._topic, large, seconds=PACKET_SECONDS_MAX)
                if outcome == "acknowledged":
                    writer.publish(self._topic, small)
            if outcome != "acknowledged":
                self.failure, self.is_slow = _FAILURES[outcome], outcome == "timed out"
                return False
            # When the small one behind it arrives, the large one will not come; no timeout has to be guessed.
            received = reader.receive(
                lambda received: any(one.payload in {large, small} for one in received), seconds=PACKET_SECONDS_MAX
            )
        if any(one.payload == large for one in received):
            return True
        self.is_slow = not received
        self.failure = "acknowledged and discarded" if received else f"not delivered within {PACKET_SECONDS_MAX:g} s"
        return False


_FAILURES: dict[PublishOutcome, str] = {
    "refused": "refused",
    "too large": "over the limit that the broker announces",
    "disconnected": "answered by closing the connection",
    "timed out": f"not acknowledged within {PACKET_SECONDS_MAX:g} s",
}


def packet_limit(broker: BrokerUnderTest) -> Iterator[Finding]:
    """How large a message may be."""
    name = "packet limit"
    probe = _PacketProbe(broker, broker.require("update"))
    needed, wanted = PACKET_BYTES_NEEDED // KIB, PACKET_BYTES_WANTED // KIB
    if probe.passes(PACKET_BYTES_WANTED):
        yield Finding(name=name, verdict="ok", line=f"packets of {wanted} KiB pass")
    elif probe.passes(PACKET_BYTES_NEEDED):
        if probe.is_slow:
            line = f"packets of {needed} KiB pass; of {wanted} KiB they are {probe.failure}"
            advice = "a slow connection, or the WebSocket listener of mosquitto 2.0, which sends 40 kB/s"
            yield Finding(name=name, verdict="warning", line=line, advice=advice)
            return
        size = largest(probe.passes, low=PACKET_BYTES_NEEDED, high=PACKET_BYTES_WANTED, step=PACKET_STEP_BYTES)
        line = f"packets of {size // KIB} KiB pass; larger ones are {probe.failure}"
        advice = f"or keep the devices' --update-bytes below {size // KIB * KIB}"
        yield Finding(name=name, verdict="warning", line=line, advice=advice, remedies=known.PACKET)
    elif probe.is_slow:
        line = f"packets of {needed} KiB are {probe.failure}, so the limit cannot be determined"
        yield Finding(name=name, verdict="warning", line=line, advice="try again over a faster connection")
    else:
        size = largest(probe.passes, low=KIB, high=PACKET_BYTES_NEEDED, step=4 * KIB)
        line = f"packets of {size // KIB} KiB pass, {needed} are needed; larger ones are {probe.failure}"
        yield Finding(name=name, verdict="missing", line=line, remedies=known.PACKET)


def queue_and_flight(broker: BrokerUnderTest) -> Iterator[Finding]:
    """How many messages are queued for an offline client, and how many are delivered before an acknowledgement."""
    topic = broker.require("update")
    payloads = [b"queued %06d" % number for number in range(broker.queue_messages)]
    with broker.session("aggregator") as session:
        with broker.connect("aggregator", broker.filter("update"), session=session) as reader:
            reader.publish(broker.topic("receipt"), b"after the subscription")
        with broker.connect("device") as writer:
            outcomes = writer.publish_all([(topic, payload) for payload in payloads], seconds=PUBLISH_SECONDS_MAX)
        taken = {payload for payload, outcome in zip(payloads, outcomes, strict=True) if outcome == "acknowledged"}
        if not taken:
            raise ConnectionLost(f"none of {len(payloads)} messages was acknowledged")
        with broker.connect(
            "aggregator", broker.filter("update"), session=session, receive_maximum=RECEIVE_MAXIMUM
        ) as reader:
            first = reader.receive(
                lambda received: len(received) >= len(taken),
                seconds=DRAIN_SECONDS_MAX / 2,
                quiet_seconds=_QUIET_SECONDS,
                ack=False,
            )
            reader.ack(first)
            kept = _drain(reader, {one.payload for one in first}, taken)
    yield _queue(asked=len(payloads), taken=len(taken), kept=len(kept))
    if kept:
        yield _in_flight(len(first), waiting=len(kept), announced=broker.protocol == "5")


def _drain(reader: ProbeClient, kept: set[bytes], wanted: set[bytes]) -> set[bytes]:
    """Adds to `kept` what still arrives, until everything has arrived or nothing more comes."""
    rest = reader.receive(
        lambda received: kept | {one.payload for one in received} >= wanted,
        seconds=DRAIN_SECONDS_MAX,
        quiet_seconds=2 * _QUIET_SECONDS,
    )
    return (kept | {one.payload for one in rest}) & wanted


def _queue(*, asked: int, taken: int, kept: int) -> Finding:
    name = "queue limit"
    if kept < taken:
        line = f"of {taken:,} acknowledged messages for an offline client, {kept:,} were kept"
        return Finding(
            name=name,
            verdict="missing",
            line=line,
            remedies=known.QUEUE,
            alternative="or, if fewer messages will ever wait, a lower --queue-messages",
        )
    if taken < asked:
        line = f"all {taken:,} messages that could be sent in time were kept for an offline client"
        return Finding(name=name, verdict="warning", line=f"{line}; try {asked:,} over a faster connection")
    return Finding(name=name, verdict="ok", line=f"{kept:,} messages are kept for an offline client")


def _in_flight(count: int, *, waiting: int, announced: bool) -> Finding:
    name = "in flight"
    if announced and count > RECEIVE_MAXIMUM:
        line = f"{count} deliveries before an acknowledgement, although the client allows {RECEIVE_MAXIMUM}"
        return Finding(name=name, verdict="warning", line=line)
    if count >= min(IN_FLIGHT_WANTED, waiting):
        said = f", within the client's limit of {RECEIVE_MAXIMUM}" if announced else ""
        return Finding(name=name, verdict="ok", line=f"{count} deliveries before an acknowledgement{said}")
    line = f"{count} deliveries before an acknowledgement, which limits the aggregator's batches"
    return Finding(name=name, verdict="warning", line=line, remedies=known.IN_FLIGHT)
