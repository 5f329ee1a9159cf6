"""Deltas that have come, and the way that they make from one version to another. Pure.

They are kept by the digests that they state, so a way is found backwards from the version that is wanted: in whatever
order and from whatever line they came, only those that link up are used.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from wire_contract import codec
from wire_contract.errors import DecodeError
from wire_contract.limits import KEPT_DELTAS
from wire_contract.messages import Delta, Manifest
from wire_contract.publication.deltas import follow
from wire_contract.publication.manifest import Published

DELTAS_MAX = 2 * KEPT_DELTAS
"""Kept at a time, as payloads: each within `DELTA_LIMITS`, so 4 MiB at most."""


@dataclass(frozen=True)
class Link:
    """One delta that is here."""

    version: int
    digest: bytes
    parent_digest: bytes
    payload: bytes


@dataclass(frozen=True)
class Way:
    """From one version to a later one."""

    links: Sequence[Link]
    """In the order of use; complete when nothing is missing."""
    missing: tuple[int, ...]
    """Versions whose deltas are not here, oldest first."""


class BrokenLink(DecodeError):
    """A delta on the way does not lead where it says; it was forgotten."""

    def __init__(self, link: Link, reason: str) -> None:
        super().__init__(reason)
        self.link = link


class DeltaStore:
    """The newest ones, bounded."""

    def __init__(self) -> None:
        self._links: OrderedDict[tuple[bytes, bytes], Link] = OrderedDict()
        """By both digests: of two that claim to lead to the same version, one may lie."""

    def __len__(self) -> int:
        return len(self._links)

    def add(self, delta: Delta, payload: bytes) -> None:
        """Keeps a delta; the one that has been here longest goes."""
        key = (delta.digest, delta.parent_digest)
        self._links[key] = Link(delta.version, delta.digest, delta.parent_digest, payload)
        self._links.move_to_end(key)
        while len(self._links) > DELTAS_MAX:
            self._links.popitem(last=False)

    def drop(self, *, up_to: int) -> None:
        """Forgets the deltas that lead to versions up to this one."""
        for key, link in tuple(self._links.items()):
            if link.version <= up_to:
                del self._links[key]

    def clear(self) -> None:
        """Forgets all."""
        self._links.clear()

    def way(self, target: Manifest, version: int, digest: bytes | None) -> Way | None:
        """The way to `target` from a version with this digest (None: unknown); None: there is none.

        What is missing of it can be had from the broker.
        """
        if not 0 < target.version - version <= DELTAS_MAX:
            return None
        way = self._back(target.digest, target.version, version, digest)
        gone = way is not None and way.missing and way.missing[0] <= target.version - len(target.delta_sizes)
        return None if gone else way

    def _back(self, at: bytes, needed: int, version: int, digest: bytes | None) -> Way | None:
        if needed == version:
            return Way((), ()) if digest in {None, at} else None
        found = [link for link in self._links.values() if (link.digest, link.version) == (at, needed)]
        if not found:
            here = {link.version for link in self._links.values()} - {needed}
            return Way((), tuple(one for one in range(version + 1, needed + 1) if one not in here))
        ways: list[Way] = []
        for link in found:
            way = self._back(link.parent_digest, needed - 1, version, digest)
            if way is not None:
                ways.append(Way((*way.links, link), way.missing))
        return min(ways, key=lambda way: len(way.missing), default=None)

    def walk(self, start: Published, way: Way) -> Published:
        """Where a complete way leads to.

        Raises:
            BrokenLink: not there; the delta that is wrong was forgotten.
        """
        assert not way.missing, f"deltas {way.missing} are missing"
        for link in way.links:
            try:
                start = follow(start, codec.decode(link.payload, Delta))
            except DecodeError as error:
                del self._links[link.digest, link.parent_digest]
                raise BrokenLink(link, str(error)) from None
        return start
