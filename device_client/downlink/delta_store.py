"""Received deltas, and the chains that they form from one version to another. Pure.

Deltas are stored under the digests that they state, and a chain is searched backwards from the wanted version. So the
order of arrival does not matter, and deltas of another model line are never used.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from wire_contract import codec
from wire_contract.errors import DecodeError
from wire_contract.limits import KEPT_DELTAS
from wire_contract.messages import Delta, Manifest
from wire_contract.publication.deltas import apply_delta
from wire_contract.publication.manifest import PublishedVersion

DELTAS_MAX = 2 * KEPT_DELTAS
"""Deltas stored at a time, as payloads. Each is within `DELTA_LIMITS`, so they take 4 MiB at most."""


@dataclass(frozen=True)
class StoredDelta:
    """One received delta."""

    version: int
    digest: bytes
    parent_digest: bytes
    payload: bytes


@dataclass(frozen=True)
class DeltaChain:
    """The deltas that lead from one version to a later one."""

    deltas: Sequence[StoredDelta]
    """In the order of use; all of them if nothing is missing."""
    missing: tuple[int, ...]
    """Versions whose deltas have not been received, oldest first."""


class BrokenDelta(DecodeError):
    """A delta of a chain does not lead to the digest that it states; the store has dropped it."""

    def __init__(self, delta: StoredDelta, reason: str) -> None:
        super().__init__(reason)
        self.delta = delta


class DeltaStore:
    """The newest deltas, bounded."""

    def __init__(self) -> None:
        self._deltas: OrderedDict[tuple[bytes, bytes], StoredDelta] = OrderedDict()
        """By both digests: of two deltas that claim to lead to the same version, one may be forged."""

    def add(self, delta: Delta, payload: bytes) -> None:
        """Stores a delta; if there are too many, the one stored longest ago is dropped."""
        key = (delta.digest, delta.parent_digest)
        self._deltas[key] = StoredDelta(delta.version, delta.digest, delta.parent_digest, payload)
        self._deltas.move_to_end(key)
        while len(self._deltas) > DELTAS_MAX:
            self._deltas.popitem(last=False)

    def drop(self, *, up_to: int) -> None:
        """Drops the deltas that lead to versions up to this one."""
        for key, delta in tuple(self._deltas.items()):
            if delta.version <= up_to:
                del self._deltas[key]

    def clear(self) -> None:
        """Drops all of them."""
        self._deltas.clear()

    def chain(self, target: Manifest, version: int, digest: bytes | None) -> DeltaChain | None:
        """The chain to `target` from a version with this digest (None: not known yet).

        None if there is no such chain, or if a missing delta is no longer retained by the broker.
        """
        if not 0 < target.version - version <= DELTAS_MAX:
            return None
        chain = self._back(target.digest, target.version, version, digest)
        oldest_retained = target.version - len(target.delta_sizes) + 1
        gone = chain is not None and chain.missing and chain.missing[0] < oldest_retained
        return None if gone else chain

    def _back(self, at: bytes, needed: int, version: int, digest: bytes | None) -> DeltaChain | None:
        """The chain from `version` to version `needed`, whose digest is `at`."""
        if needed == version:
            return DeltaChain((), ()) if digest in {None, at} else None
        found = [delta for delta in self._deltas.values() if (delta.digest, delta.version) == (at, needed)]
        if not found:
            here = {delta.version for delta in self._deltas.values()} - {needed}
            return DeltaChain((), tuple(one for one in range(version + 1, needed + 1) if one not in here))
        chains: list[DeltaChain] = []
        for delta in found:
            chain = self._back(delta.parent_digest, needed - 1, version, digest)
            if chain is not None:
                chains.append(DeltaChain((*chain.deltas, delta), chain.missing))
        return min(chains, key=lambda chain: len(chain.missing), default=None)

    def apply(self, start: PublishedVersion, chain: DeltaChain) -> PublishedVersion:
        """The version that a complete chain leads to from `start`.

        Raises:
            BrokenDelta: a delta does not lead where it says; it was dropped.
        """
        assert not chain.missing, f"deltas {chain.missing} are missing"
        for delta in chain.deltas:
            try:
                start = apply_delta(start, codec.decode(delta.payload, Delta))
            except DecodeError as error:
                del self._deltas[delta.digest, delta.parent_digest]
                raise BrokenDelta(delta, str(error)) from None
        return start
