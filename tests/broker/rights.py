"""Who may do what, as the contract says it. Access lists and brokers are held against this, kind by kind."""

from collections.abc import Iterator
from dataclasses import dataclass

from wire_contract.topics import DEFAULT_ROOT, TOPICS, Kind, build, parse

TASK = "har"
DEVICES = ("watch-1", "watch-2")
"""Two, so that one can be the other's enemy."""
NAMES = (*DEVICES, "aggregator", "aggregator-1", "viewer", "evaluator")

READERS: dict[Kind, tuple[str, ...]] = {
    "model": ("device", "evaluator", "aggregator", "viewer"),
    "chunk": ("device", "evaluator", "aggregator", "viewer"),
    "delta": ("device", "evaluator", "aggregator", "viewer"),
    "update": ("aggregator",),
    "receipt": (),  # and the one it is for
    "presence": ("aggregator", "viewer"),
    "evaluation": ("aggregator", "viewer"),
    "aggregator": ("viewer",),
}
"""Roles. Who writes a kind stands in the contract's own table."""


@dataclass(frozen=True)
class Place:
    """One topic of a kind."""

    kind: Kind
    topic: str
    owner: str | None
    """The name in it, where there is one."""


def role_of(name: str) -> str:
    return name.partition("-")[0] if name.startswith(("aggregator", "viewer", "evaluator")) else "device"


def may_write(name: str, place: Place) -> bool:
    writer = TOPICS[place.kind].writer
    if writer == "aggregator":
        return role_of(name) == "aggregator"
    writers = {"device", "evaluator"} if place.kind == "presence" else {writer}
    return role_of(name) in writers and place.owner == name


def may_read(name: str, place: Place) -> bool:
    if place.kind == "receipt":
        return place.owner == name
    # What carries an aggregator's or viewer's own name is a device's, and they are none.
    return role_of(name) in READERS[place.kind] and place.owner != name


def places() -> Iterator[Place]:
    """A topic of every kind, and one for every name where names stand in topics. Receipts are for devices only."""
    filled = {"version": 7, "chunk": 0, "shard": 0}
    for kind, row in TOPICS.items():
        numbers = {name: value for name, value in filled.items() if f"{{{name}}}" in row.pattern}
        owners = (None,) if "{device}" not in row.pattern else DEVICES if kind == "receipt" else NAMES
        for owner in owners:
            parts = numbers if owner is None else {**numbers, "device": owner}
            topic = build(kind, root=DEFAULT_ROOT, task=TASK, **parts)
            assert parse(topic, root=DEFAULT_ROOT).kind == kind
            yield Place(kind, topic, owner)
