"""Chunks that have come, by version and SHA-256, and what is still missing of the snapshots that are sought. Pure.

What nobody asked for is kept up to a number of bytes, and the oldest goes first; what snapshots ask for is bounded by
the sizes that manifests may state. A chunk costs the same work whatever the size of the model: who asks for it is
looked up, and each snapshot counts what it lacks.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from wire_contract.limits import MIB

EARLY_BYTES_MAX = 64 * MIB
"""Chunks kept without a manifest that names them."""

ChunkKey = tuple[int, bytes]
"""Version and SHA-256."""


@dataclass
class _Sought:
    """One snapshot that is not complete."""

    keys: tuple[ChunkKey, ...]
    """In the order of its payload; chunks that are alike have one key."""
    times: Mapping[ChunkKey, int]
    """How often each of them stands there."""
    missing: int
    """Keys whose chunks are not here."""
    here_bytes: int
    """Of its payload."""


class ChunkStore:
    """See the module. Snapshots are named by their digests, as chunks are."""

    def __init__(self, early_bytes_max: int) -> None:
        self._early_bytes_max = early_bytes_max
        self._chunks: dict[ChunkKey, bytes] = {}
        self._early: OrderedDict[ChunkKey, None] = OrderedDict()
        """Those that no snapshot asks for; the oldest first."""
        self._size_bytes = 0
        self._early_bytes = 0
        self._sought: dict[ChunkKey, _Sought] = {}
        self._seekers: dict[ChunkKey, list[ChunkKey]] = {}
        """For each chunk that is asked for, the snapshots that do."""

    @property
    def size_bytes(self) -> int:
        """Memory taken."""
        return self._size_bytes

    def add(self, key: ChunkKey, payload: bytes) -> bool:
        """Keeps a chunk. Whether a snapshot asks for it."""
        seekers = self._seekers.get(key, ())
        if key in self._chunks:
            if key in self._early:
                self._early.move_to_end(key)
            return bool(seekers)
        self._chunks[key] = payload
        self._size_bytes += len(payload)
        for name in seekers:
            sought = self._sought[name]
            sought.missing -= 1
            sought.here_bytes += len(payload) * sought.times[key]
        if not seekers:
            self._add_early(key)
        return bool(seekers)

    def seek(self, name: ChunkKey, keys: Sequence[ChunkKey]) -> None:
        """From now on the chunks of this snapshot are asked for, in the order of its payload."""
        assert name not in self._sought, f"snapshot {name} is sought already"
        times = Counter(keys)
        here = [key for key in times if key in self._chunks]
        here_bytes = sum(len(self._chunks[key]) * times[key] for key in here)
        self._sought[name] = _Sought(tuple(keys), times, len(times) - len(here), here_bytes)
        for key in times:
            self._seekers.setdefault(key, []).append(name)
            if key in self._early:
                del self._early[key]
                self._early_bytes -= len(self._chunks[key])

    def give_up(self, name: ChunkKey) -> None:
        """This snapshot's chunks are no longer asked for. They are kept like others that nobody asks for."""
        for key in self._sought.pop(name).times:
            self._seekers[key].remove(name)
            if not self._seekers[key]:
                del self._seekers[key]
                if key in self._chunks:
                    self._add_early(key)

    def is_complete(self, name: ChunkKey) -> bool:
        """Whether all chunks of a sought snapshot are here."""
        return not self._sought[name].missing

    def here_bytes(self, name: ChunkKey) -> int:
        """Bytes of a sought snapshot that are here."""
        return self._sought[name].here_bytes

    def of(self, name: ChunkKey) -> Iterator[bytes]:
        """The chunks of a complete snapshot, in order."""
        return (self._chunks[key] for key in self._sought[name].keys)

    def drop(self, *, up_to: int) -> None:
        """Forgets the chunks of versions up to this one. Nobody asks for them."""
        for key in [key for key in self._chunks if key[0] <= up_to]:
            assert key not in self._seekers, f"chunk {key} is asked for"
            self._forget(key)

    def _add_early(self, key: ChunkKey) -> None:
        self._early[key] = None
        self._early_bytes += len(self._chunks[key])
        while self._early_bytes > self._early_bytes_max:
            self._forget(next(iter(self._early)))

    def _forget(self, key: ChunkKey) -> None:
        size = len(self._chunks.pop(key))
        self._size_bytes -= size
        del self._early[key]
        self._early_bytes -= size
