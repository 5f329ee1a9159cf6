"""The list of users for a nats-server, which has no patterns like mosquitto's `%u`: each name is listed with its
topics.

NATS writes a topic as a subject: `.` between levels, `*` for `+`, and `//` for a dot within a level. Clients are
identified by their certificates (`verify_and_map`); a client that is no longer listed is refused, which replaces a
revocation list.
"""

import json
from collections.abc import Iterable, Mapping

from aggregator.enrolment.roles import Role
from wire_contract.topics import TOPICS, Kind, topic_filter

READERS: Mapping[Kind, tuple[Role, ...]] = {
    "model": ("device", "evaluator", "aggregator", "viewer"),
    "chunk": ("device", "evaluator", "aggregator", "viewer"),
    "delta": ("device", "evaluator", "aggregator", "viewer"),
    "update": ("aggregator",),
    "receipt": ("device",),
    "presence": ("aggregator", "viewer"),
    "evaluation": ("aggregator", "viewer"),
    "aggregator": ("viewer",),
}
"""Kinds of topics with a device name, which devices and evaluators may use with their own name only."""

WRITERS: Mapping[Kind, tuple[Role, ...]] = {
    kind: ("device", "evaluator") if kind == "presence" else (row.writer,) for kind, row in TOPICS.items()
}

DELIVERIES = "$MQTT.sub.>"
"""Where the server delivers QoS 1 messages; without it no subscription works. MQTT clients cannot use it as a topic."""


def users(names: Iterable[tuple[str, Role]], *, root: str) -> str:
    """The content of a file that is included within `authorization { include … }`."""
    lines = [_user(name, role, root) for name, role in names if role != "broker"]
    return "users: [\n" + "".join(f"  {line}\n" for line in lines) + "]\n"


def subject(pattern: str) -> str:
    """An MQTT topic filter as NATS writes it."""
    return ".".join("*" if level == "+" else level.replace(".", "//") for level in pattern.split("/"))


def _user(name: str, role: Role, root: str) -> str:
    own = {"device": name} if role in {"device", "evaluator"} else {}
    publish, subscribe = [], [DELIVERIES]
    for kind, row in TOPICS.items():
        parts = own if "{device}" in row.pattern else {}
        place = subject(topic_filter(kind, root=root, task="+", **parts))
        if role in WRITERS[kind]:
            publish.append(place)
        if role in READERS[kind]:
            subscribe.append(place)
    # NATS would treat an empty list as permission for everything.
    publishing = {"allow": publish} if publish else {"deny": [">"]}
    permissions = json.dumps({"publish": publishing, "subscribe": {"allow": subscribe}})
    return f'{{ user: "CN={name}", allowed_connection_types: ["MQTT"], permissions: {permissions} }}'
