"""Received chunks, by version and SHA-256, and what each wanted snapshot still lacks. Pure.

Chunks that no wanted snapshot names are kept up to a number of bytes, and the oldest are dropped first. What wanted
snapshots may take is bounded by the sizes that manifests may state. Adding a chunk costs the same whatever the size of
the model: the snapshots that name it are looked up, and each keeps a count of what it lacks.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from wire_contract.limits import MIB

UNCLAIMED_BYTES_MAX = 64 * MIB
"""Chunks kept that no wanted snapshot names. Chunks are published before their manifest, so a whole model may be among
them; 64 MiB is far above a student's size, and bounds what a hostile publisher can make a device keep."""

ChunkKey = tuple[int, bytes]
"""Version and SHA-256."""


@dataclass
class _WantedSnapshot:
    """One snapshot that is not complete yet."""

    keys: tuple[ChunkKey, ...]
    """In the order of its payload; identical chunks share a key."""
    occurrences: Mapping[ChunkKey, int]
    """How often each chunk occurs in it."""
    missing: int
    """Number of keys whose chunks have not been received."""
    received_bytes: int
    """Bytes of its payload that have been received."""


class ChunkStore:
    """See the module. A snapshot is named by its version and a digest, as a chunk is."""

    def __init__(self, unclaimed_bytes_max: int) -> None:
        self._unclaimed_bytes_max = unclaimed_bytes_max
        self._chunks: dict[ChunkKey, bytes] = {}
        self._unclaimed: OrderedDict[ChunkKey, None] = OrderedDict()
        """Chunks that no wanted snapshot names, oldest first."""
        self._unclaimed_bytes = 0
        self._wanted: dict[ChunkKey, _WantedSnapshot] = {}
        self._claims: dict[ChunkKey, list[ChunkKey]] = {}
        """For each chunk, the wanted snapshots that name it."""

    def add(self, key: ChunkKey, payload: bytes) -> bool:
        """Keeps a chunk. Returns whether a wanted snapshot names it."""
        claims = self._claims.get(key, ())
        if key in self._chunks:
            if key in self._unclaimed:
                self._unclaimed.move_to_end(key)
            return bool(claims)
        self._chunks[key] = payload
        for name in claims:
            wanted = self._wanted[name]
            wanted.missing -= 1
            wanted.received_bytes += len(payload) * wanted.occurrences[key]
        if not claims:
            self._add_unclaimed(key)
        return bool(claims)

    def want(self, name: ChunkKey, keys: Sequence[ChunkKey]) -> None:
        """From now on this snapshot is wanted; `keys` are its chunks in the order of its payload."""
        assert name not in self._wanted, f"snapshot {name} is wanted already"
        occurrences = Counter(keys)
        here = [key for key in occurrences if key in self._chunks]
        received_bytes = sum(len(self._chunks[key]) * occurrences[key] for key in here)
        self._wanted[name] = _WantedSnapshot(tuple(keys), occurrences, len(occurrences) - len(here), received_bytes)
        for key in occurrences:
            self._claims.setdefault(key, []).append(name)
            if key in self._unclaimed:
                del self._unclaimed[key]
                self._unclaimed_bytes -= len(self._chunks[key])

    def give_up(self, name: ChunkKey) -> None:
        """This snapshot is no longer wanted. Its chunks stay, as unclaimed ones unless another snapshot names them."""
        for key in self._wanted.pop(name).occurrences:
            self._claims[key].remove(name)
            if not self._claims[key]:
                del self._claims[key]
                if key in self._chunks:
                    self._add_unclaimed(key)

    def is_complete(self, name: ChunkKey) -> bool:
        """Whether all chunks of a wanted snapshot have been received."""
        return not self._wanted[name].missing

    def received_bytes(self, name: ChunkKey) -> int:
        """Bytes of a wanted snapshot that have been received."""
        return self._wanted[name].received_bytes

    def of(self, name: ChunkKey) -> Iterator[bytes]:
        """The chunks of a complete snapshot, in the order of its payload."""
        return (self._chunks[key] for key in self._wanted[name].keys)

    def drop(self, *, up_to: int) -> None:
        """Drops the chunks of versions up to this one. No wanted snapshot may name them."""
        for key in [key for key in self._chunks if key[0] <= up_to]:
            assert key not in self._claims, f"chunk {key} is wanted"
            self._drop(key)

    def _add_unclaimed(self, key: ChunkKey) -> None:
        self._unclaimed[key] = None
        self._unclaimed_bytes += len(self._chunks[key])
        while self._unclaimed_bytes > self._unclaimed_bytes_max:
            self._drop(next(iter(self._unclaimed)))

    def _drop(self, key: ChunkKey) -> None:
        size = len(self._chunks.pop(key))
        del self._unclaimed[key]
        self._unclaimed_bytes -= size
