"""What does a device receive after an absence of many versions, subscribed to the model at QoS 1 and at QoS 0?

With a real broker, the aggregator's publisher at its defaults, and a device's receiver with a durable session. The
device receives version 0, disconnects, and reconnects when all versions are published; the payload bytes that it
receives until it has the newest version are counted.
"""

import contextlib
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.model_line import LineSettings, opening_release
from aggregator.publishing.publisher import Publisher
from benchmarks.settings import AbsenceSettings
from device_client.downlink.receiver import ModelReceiver
from wire_contract.compression.choice import encode_as
from wire_contract.encoding import EncodedTensor
from wire_contract.layout import Layout, TensorSpec, Vector
from wire_contract.limits import KEPT_SNAPSHOTS
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Connected, Delivery, QoS
from wire_contract.program.command_settings import UsageError
from wire_contract.publication.release import Release, next_release
from wire_contract.topics import parse, topic_filter

TASK = "absence"
DEVICE = "watch-1"
PATIENCE_SECONDS = 60.0
"""Chosen: generous to a slow broker, as it only ends what hangs."""
QUIET_SECONDS = 1.0
"""After this time without a message, everything has arrived."""
QUALITIES: Sequence[QoS] = (1, 0)
MOSQUITTO = "mosquitto"


@dataclass
class Received:
    """What a device received after reconnecting: messages and payload bytes by kind of topic."""

    messages: Counter[str] = field(default_factory=Counter)
    size_bytes: Counter[str] = field(default_factory=Counter)
    version: int | None = None
    """The newest version that it has."""


def run(settings: AbsenceSettings) -> dict[str, Any]:
    """Measures; returns the figures.

    Raises:
        UsageError: there is no broker.
    """
    line = _line(settings.versions, settings.elements)
    figures: dict[str, Any] = {
        "versions": settings.versions,
        "elements": settings.elements,
        "snapshot_bytes": len(line[-1].snapshot),
        "delta_bytes_mean": float(np.mean([len(release.deltas[0]) for release in line[1:] if release.deltas] or [0])),
        "received": {},
    }
    with _broker(settings.broker) as url:
        for qos in QUALITIES:
            received = _after_absence(url, line, qos)
            figures["received"][f"qos_{qos}"] = {
                "bytes": received.size_bytes.total(),
                "messages": received.messages.total(),
                "bytes_by_kind": dict(received.size_bytes),
                "messages_by_kind": dict(received.messages),
                "version": received.version,
            }
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    about = f"away for {figures['versions']} versions of {figures['elements']:,} numbers"
    sizes = f"snapshot {figures['snapshot_bytes']:,} bytes, a delta {figures['delta_bytes_mean']:,.0f}"
    rows = [f"{about} ({sizes})", "", f"{'listening at':<14} {'bytes':>9} {'messages':>9}   of them"]
    for name, one in figures["received"].items():
        parts = ", ".join(
            f"{one['messages_by_kind'][kind]} {kind} {size:,}" for kind, size in one["bytes_by_kind"].items()
        )
        rows.append(f"{name.replace('qos_', 'QoS '):<14} {one['bytes']:>9,} {one['messages']:>9}   {parts}")
    return "\n".join(rows)


def _line(versions: int, elements: int) -> list[Release]:
    """Version 0 and this many more, made with the aggregator's defaults; the weights change a little each time."""
    defaults, chance = LineSettings(task=TASK), np.random.default_rng(0)
    layout = Layout((TensorSpec("a.weight", (elements - 1,)), TensorSpec("a.bias", (1,))))
    weights: Vector = chance.standard_normal(elements, dtype=np.float32)
    line = [opening_release(defaults, layout, weights, published_at=0.0)]
    choice = defaults.delta_encoding
    assert choice is not None, "deltas are the default"

    def encode(difference: Vector, of: Layout) -> tuple[EncodedTensor, ...]:
        return encode_as(choice, difference, of, version=line[-1].version)

    for version in range(1, versions + 1):
        weights = weights + np.float32(0.01) * chance.standard_normal(elements, dtype=np.float32)
        line.append(
            next_release(
                line[-1],
                weights,
                encoding=defaults.model_encoding,
                encode_delta=encode,
                snapshot_versions=defaults.snapshot_versions,
                published_at=float(version),
                delta_bytes_max=defaults.delta_message_bytes_max,
            )
        )
    return line


def _after_absence(url: str, line: Sequence[Release], qos: QoS) -> Received:
    """What a device receives that was connected for version 0 only."""
    root = f"absence/{secrets.token_hex(4)}"
    with contextlib.closing(MqttLink(MqttSettings.from_url(url, client_id=f"{root}/aggregator"))) as link:
        publisher = Publisher(link, root=root, task=TASK, shard=0)
        _publish(publisher, link, root, line[:1])
        assert _reconnect(url, root, qos, newest=0).version == 0
        _publish(publisher, link, root, line[1:])
        received = _reconnect(url, root, qos, newest=line[-1].version)
        publisher.tidy(())
        newest = line[-1].announcement(shards=1, update_bytes_max=1 << 20)
        left = [publisher.delta_topic(version) for version in newest.deltas]
        left += [publisher.chunk_topic(newest.manifest.snapshot_version, at) for at in range(len(newest.chunks))]
        for topic in (publisher.model_topic, *left):
            link.publish(topic, b"", retain=True).wait(PATIENCE_SECONDS)
    with contextlib.closing(MqttLink(_device(url, root, qos, clean_start=True))) as last:
        last.receive(count=1, timeout_seconds=PATIENCE_SECONDS)  # clean start: the broker deletes the session
    return received


def _publish(publisher: Publisher, link: MqttLink, root: str, line: Sequence[Release]) -> None:
    """Publishes all versions in order, and deletes old chunks as the aggregator does."""
    snapshots: dict[int, list[str]] = {}
    for release in line:
        publisher.model(release.announcement(shards=1, update_bytes_max=1 << 20))
        version = release.snapshot_version
        snapshots[version] = [publisher.chunk_topic(version, index) for index in range(len(release.chunks))]
        publisher.tidy({topic for one in sorted(snapshots)[-KEPT_SNAPSHOTS:] for topic in snapshots[one]})
    link.publish(f"{root}/published", b"").wait(PATIENCE_SECONDS)


def _device(url: str, root: str, qos: QoS, *, clean_start: bool = False) -> MqttSettings:
    models = {} if clean_start else {topic_filter("model", root=root, task=TASK): qos}
    return MqttSettings.from_url(url, client_id=f"{root}/{DEVICE}", subscriptions=models, clean_start=clean_start)


def _reconnect(url: str, root: str, qos: QoS, *, newest: int) -> Received:
    """Connects a device, receives until it has the newest version and nothing more arrives, and disconnects."""
    received = Received()
    with contextlib.closing(MqttLink(_device(url, root, qos))) as link:
        downlink = ModelReceiver(link, root=root, task=TASK)
        is_connected = False
        deadline = time.monotonic() + PATIENCE_SECONDS
        quiet_until = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < deadline:
            is_done = is_connected and received.version == newest and time.monotonic() >= quiet_until
            if is_done:
                break
            for event in link.receive(count=100, timeout_seconds=0.1):
                is_connected = is_connected or isinstance(event, Connected)
                if not isinstance(event, Delivery):
                    continue
                topic = parse(event.topic, root=root)
                received.messages[topic.kind] += 1
                received.size_bytes[topic.kind] += len(event.payload)
                downlink.take(topic, event.payload)
                link.ack(event)
                quiet_until = time.monotonic() + QUIET_SECONDS
            if downlink.held is not None:
                received.version = downlink.held.published.version
    return received


@contextlib.contextmanager
def _broker(url: str | None) -> Iterator[str]:
    """The one that was given, or a mosquitto of our own that queues nothing at QoS 0, as its default is."""
    if url is not None:
        yield url
        return
    program = shutil.which(MOSQUITTO) or shutil.which(MOSQUITTO, path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise UsageError("mosquitto is not installed; install it, or give --broker mqtt://HOST of a test broker")
    with tempfile.TemporaryDirectory(prefix="fedkd-absence-") as folder:
        port = _free_port()
        lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "max_queued_messages 100000"]
        config = Path(folder) / "mosquitto.conf"
        config.write_text("\n".join([*lines, "queue_qos0_messages false", ""]), encoding="utf-8")
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
        try:
            yield f"mqtt://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
