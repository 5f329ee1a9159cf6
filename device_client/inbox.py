"""The newest model out of manifests and chunks, in whatever order and however often they come. Pure: no link, no clock.

- A manifest is taken when its version is higher than the held one, or when it is of other weights and was published
  later: then the aggregator began a new line. One that has been superseded does not come back (a broker may deliver
  late), or a device would return to a line that is dead.
- Chunks are kept by version and SHA-256, since that is how a manifest names them. A live version's chunks come before
  its manifest, so chunks that nobody has asked for yet are kept as well, up to a number of bytes; the oldest go first.
- Whatever is wrong (manifest, chunk, assembled weights) leaves the held model as it is and gives one `Rejected`.
"""

import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass

import msgspec

from wire_contract import codec
from wire_contract.errors import DecodeError
from wire_contract.limits import CHUNK_BYTES_MAX, MIB, MODEL_LIMITS, Limits
from wire_contract.manifest import Published, assemble
from wire_contract.messages import Manifest

EARLY_BYTES_MAX = 64 * MIB
"""Chunks kept without a manifest that names them."""
CANDIDATES_MAX = 4
"""Announced versions that may be incomplete at a time; the aggregator keeps the chunks of two."""
SUPERSEDED_MAX = 64
"""Superseded versions remembered."""

_Key = tuple[int, bytes]
"""A version, and the digest of its weights or of one of its chunks: a new line may use a version number again."""


@dataclass(frozen=True)
class NewModel:
    """A version that is complete and verified."""

    published: Published
    manifest: Manifest
    """With the model inline, however it travelled: all that is needed to have it again."""


@dataclass(frozen=True)
class Rejected:
    """Something could not be used; the held model stays."""

    reason: str
    """One line for a person."""


Outcome = NewModel | Rejected | None
"""None: nothing to tell (an old version, a chunk of an incomplete one)."""


class Inbox:
    """Holds the newest complete model of one task."""

    def __init__(self, task: str, *, early_bytes_max: int = EARLY_BYTES_MAX, limits: Limits = MODEL_LIMITS) -> None:
        self._task = task
        self._early_bytes_max = early_bytes_max
        self._limits = limits
        self._held: NewModel | None = None
        self._candidates: dict[_Key, Manifest] = {}
        self._chunks: OrderedDict[_Key, bytes] = OrderedDict()
        self._superseded: deque[_Key] = deque(maxlen=SUPERSEDED_MAX)
        self._broken: deque[bytes] = deque(maxlen=SUPERSEDED_MAX)
        self._complained: deque[_Key] = deque(maxlen=SUPERSEDED_MAX)

    @property
    def held(self) -> NewModel | None:
        """The newest complete model. Its manifest's shards and limits are those last announced."""
        return self._held

    @property
    def chunk_bytes(self) -> int:
        """Memory taken by chunks."""
        return sum(len(payload) for payload in self._chunks.values())

    def manifest(self, payload: bytes) -> Outcome:
        """A message of the model topic. An empty one (a cleared retained message) says nothing."""
        if not payload:
            return None
        try:
            manifest = codec.decode(payload, Manifest)
        except DecodeError as error:
            return Rejected(f"a manifest could not be read: {error}")
        return self.announced(manifest)

    def announced(self, manifest: Manifest) -> Outcome:
        """A manifest that was read already: of the model topic, or cached by the outbox."""
        if manifest.task != self._task:
            return Rejected(f"a manifest is of task {manifest.task!r}, not {self._task!r}")
        key = _key(manifest)
        if self._held is not None and key == _key(self._held.manifest):
            self._refresh(self._held, manifest)
            return None
        if key in self._superseded or not self._is_newer(manifest) or _name(manifest) in self._broken:
            return None
        if manifest.size_bytes > self._limits.compressed_bytes:
            self._broken.append(_name(manifest))
            return Rejected(
                f"model {manifest.version}: {manifest.size_bytes} bytes are over the limit of "
                f"{self._limits.compressed_bytes}"
            )
        self._candidates[key] = manifest
        while len(self._candidates) > CANDIDATES_MAX:
            del self._candidates[_key(min(self._candidates.values(), key=lambda candidate: candidate.published_at))]
        return self._complete(manifest)

    def chunk(self, version: int, index: int, payload: bytes) -> Outcome:
        """A message of a chunk topic. An empty one (a deleted version) says nothing."""
        if not payload:
            return None
        if len(payload) > CHUNK_BYTES_MAX:
            return Rejected(
                f"model {version}: chunk {index} has {len(payload)} bytes, over the limit of {CHUNK_BYTES_MAX}"
            )
        key = (version, hashlib.sha256(payload).digest())
        if self._held is not None and key in _chunk_keys(self._held.manifest):
            return None  # the broker sends all retained chunks again after each reconnect
        self._chunks[key] = payload
        self._chunks.move_to_end(key)
        self._forget_early()
        wanted = [manifest for manifest in self._candidates.values() if key in _chunk_keys(manifest)]
        if not wanted:
            return self._unexpected(version, index)
        outcomes = [self._complete(manifest) for manifest in wanted]
        return next((outcome for outcome in outcomes if outcome is not None), None)

    def _complete(self, manifest: Manifest) -> Outcome:
        """Takes over the manifest's model if all of it is here."""
        keys = _chunk_keys(manifest) if manifest.inline is None else []
        if any(key not in self._chunks for key in keys):
            return None
        del self._candidates[_key(manifest)]
        chunks = {index: self._chunks[key] for index, key in enumerate(keys)}
        try:
            published = assemble(manifest, chunks, limits=self._limits)
        except DecodeError as error:
            self._broken.append(_name(manifest))  # one warning; the same version announced anew may be sound
            return Rejected(f"a model could not be used: {error}")
        assert published is not None, "all chunks are here"
        payload = manifest.inline or b"".join(chunks.values())
        if self._held is not None:
            self._superseded.append(_key(self._held.manifest))
        self._held = NewModel(published, msgspec.structs.replace(manifest, inline=payload))
        for key, candidate in tuple(self._candidates.items()):
            if not self._is_newer(candidate):
                del self._candidates[key]
                self._superseded.append(key)
        for chunk in tuple(self._chunks):
            if chunk[0] <= manifest.version:
                del self._chunks[chunk]
        return self._held

    def _is_newer(self, manifest: Manifest) -> bool:
        held = self._held.manifest if self._held is not None else None
        if held is None or manifest.version > held.version:
            return True
        return manifest.digest != held.digest and manifest.published_at > held.published_at

    def _refresh(self, held: NewModel, manifest: Manifest) -> None:
        """The same version announced again: an aggregator started with other settings has other limits or shards."""
        fresh = msgspec.structs.replace(
            held.manifest, shards=manifest.shards, update_bytes_max=manifest.update_bytes_max
        )
        self._held = NewModel(held.published, fresh)

    def _unexpected(self, version: int, index: int) -> Rejected | None:
        """A chunk of an announced version with other bytes than announced: broken, or of a new line to come."""
        for key, manifest in self._candidates.items():
            if manifest.version == version and key not in self._complained:
                self._complained.append(key)
                return Rejected(
                    f"model {version}: chunk {index} does not have its digest; waiting for it to come again"
                )
        return None

    def _forget_early(self) -> None:
        """Only what no manifest asks for; the rest is bounded by the sizes that manifests may state."""
        if self.chunk_bytes <= self._early_bytes_max:
            return
        asked = {key for manifest in self._candidates.values() for key in _chunk_keys(manifest)}
        early = [(key, len(payload)) for key, payload in self._chunks.items() if key not in asked]
        excess = sum(size for _, size in early) - self._early_bytes_max
        for key, size in early:
            if excess <= 0:
                return
            del self._chunks[key]
            excess -= size


def _key(manifest: Manifest) -> _Key:
    return manifest.version, manifest.digest


def _chunk_keys(manifest: Manifest) -> list[_Key]:
    return [(manifest.version, digest) for digest in manifest.chunk_digests]


def _name(manifest: Manifest) -> bytes:
    return hashlib.sha256(codec.encode(manifest)).digest()
