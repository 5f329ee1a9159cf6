"""Chunks that have come, by version and SHA-256. Bounded: what nobody asked for goes, the oldest first. Pure."""

from collections import OrderedDict
from collections.abc import Collection

from wire_contract.limits import MIB

EARLY_BYTES_MAX = 64 * MIB
"""Chunks kept without a manifest that names them."""

ChunkKey = tuple[int, bytes]
"""Version and SHA-256."""


class ChunkStore:
    """See the module."""

    def __init__(self, early_bytes_max: int) -> None:
        self._early_bytes_max = early_bytes_max
        self._chunks: OrderedDict[ChunkKey, bytes] = OrderedDict()

    def __contains__(self, key: ChunkKey) -> bool:
        return key in self._chunks

    def __getitem__(self, key: ChunkKey) -> bytes:
        return self._chunks[key]

    @property
    def size_bytes(self) -> int:
        """Memory taken."""
        return sum(len(payload) for payload in self._chunks.values())

    def add(self, key: ChunkKey, payload: bytes, asked: Collection[ChunkKey]) -> None:
        """Keeps a chunk. Those that were `asked` for are bounded by the sizes that manifests may state."""
        self._chunks[key] = payload
        self._chunks.move_to_end(key)
        if self.size_bytes <= self._early_bytes_max:
            return
        early = [(one, len(payload)) for one, payload in self._chunks.items() if one not in asked]
        excess = sum(size for _, size in early) - self._early_bytes_max
        for one, size in early:
            if excess <= 0:
                return
            del self._chunks[one]
            excess -= size

    def drop(self, *, up_to: int) -> None:
        """Forgets the chunks of versions up to this one."""
        for key in tuple(self._chunks):
            if key[0] <= up_to:
                del self._chunks[key]
