"""The cheapest way to the newest version, in bytes: deltas from the held one, or a snapshot and the deltas after it."""

from collections.abc import Sequence
from dataclasses import dataclass

from device_client.downlink.delta_store import DeltaStore
from wire_contract.messages import Manifest

PATIENCE_VERSIONS = 2
"""A delta that is still missing after this many further versions will not come: the broker lost or refused it."""


@dataclass(frozen=True)
class Wanted:
    """What to subscribe to now."""

    deltas: tuple[int, ...] = ()
    """Versions whose delta topics are needed."""
    snapshot: int | None = None
    """The version whose chunk topics are needed."""


@dataclass(frozen=True)
class Start:
    """A version from which deltas may lead on: one that is complete, or a snapshot that is not complete yet."""

    version: int
    digest: bytes | None
    """None: not known until the snapshot is complete."""
    missing_bytes: int = 0
    """Of the snapshot."""
    is_snapshot: bool = False


class DeltaTopics:
    """Which delta topics were subscribed to, and which are closed: their delta was broken, or did not come."""

    def __init__(self) -> None:
        self.wanted_since: dict[int, int] = {}
        """Version of each wanted delta, with the target version when it was first wanted."""
        self.closed: set[int] = set()

    def reopen(self) -> None:
        """What failed before may succeed now."""
        self.closed.clear()
        self.wanted_since.clear()

    def close_late(self, target: Manifest) -> None:
        """Closes the topics whose deltas have not come for `PATIENCE_VERSIONS` versions."""
        late = [one for one, since in self.wanted_since.items() if target.version - since >= PATIENCE_VERSIONS]
        self.closed.update(late)


def plan(
    target: Manifest, starts: Sequence[Start], deltas: DeltaStore, topics: DeltaTopics, *, held_version: int
) -> Wanted:
    """What to subscribe to in order to reach `target`; `held_version` is -1 if no model is held."""
    topics.close_late(target)
    ways: list[tuple[int, Wanted]] = []
    for start in starts:
        snapshot = start.version if start.is_snapshot else None
        if start.version == target.version and start.is_snapshot:
            ways.append((start.missing_bytes, Wanted(snapshot=snapshot)))
        chain = deltas.chain(target, start.version, start.digest)
        if chain is not None and not topics.closed & set(chain.missing):
            delta_bytes = sum(target.delta_sizes[target.version - one] for one in chain.missing)
            ways.append((start.missing_bytes + delta_bytes, Wanted(chain.missing, snapshot)))
    if ways:
        wanted = min(ways, key=lambda way: way[0])[1]
    else:  # the target cannot be reached now, but perhaps a snapshot newer than the held version can
        newest = max((start.version for start in starts if start.is_snapshot), default=-1)
        wanted = Wanted(snapshot=newest if newest > held_version else None)
    for one in wanted.deltas:
        topics.wanted_since.setdefault(one, target.version)
    return wanted
