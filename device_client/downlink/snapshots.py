"""Announced snapshots that are still being received, and their chunks. Pure."""

import hashlib
from collections import deque
from collections.abc import Iterator

from device_client.downlink.chunk_store import UNCLAIMED_BYTES_MAX, ChunkKey, ChunkStore
from device_client.downlink.download_plan import Start
from device_client.downlink.manifest_order import (
    SUPERSEDED_MAX,
    VersionKey,
    chunk_keys,
    is_later,
    is_newer,
    snapshot_key,
)
from device_client.downlink.outcome import Rejected
from wire_contract.errors import DecodeError
from wire_contract.limits import CHUNK_BYTES_MAX, Limits
from wire_contract.messages import Manifest
from wire_contract.publication.manifest import PublishedVersion, assemble_snapshot

CANDIDATES_MAX = 4
"""Snapshots that may be incomplete at a time. The aggregator keeps two, so two more may be of another model line."""


class Snapshots:
    """Snapshots are kept under `snapshot_key`, since manifests of several versions may name the same one."""

    def __init__(self, *, unclaimed_bytes_max: int = UNCLAIMED_BYTES_MAX, limits: Limits) -> None:
        self._limits = limits
        self._chunks = ChunkStore(unclaimed_bytes_max)
        self._candidates: dict[VersionKey, Manifest] = {}
        """Manifests whose snapshots are not complete."""
        self._held_chunks: frozenset[ChunkKey] = frozenset()
        """Of the model that is held."""
        self._broken: deque[bytes] = deque(maxlen=SUPERSEDED_MAX)
        """Digests of snapshots that were found to be broken."""
        self._warned_of: deque[VersionKey] = deque(maxlen=SUPERSEDED_MAX)
        """Snapshots of which a wrong chunk was reported."""

    def add(self, manifest: Manifest) -> Rejected | None:
        """From now on the manifest's snapshot is wanted; if there are too many, the one published first is given up."""
        key = snapshot_key(manifest)
        if key[1] in self._broken:
            return None
        if manifest.size_bytes > self._limits.compressed_bytes:
            self._broken.append(key[1])
            return Rejected(
                f"model {manifest.snapshot_version}: {manifest.size_bytes} bytes are over the limit of "
                f"{self._limits.compressed_bytes}"
            )
        if key not in self._candidates:
            self._chunks.want(key, chunk_keys(manifest) if manifest.inline is None else ())
        self._candidates[key] = manifest
        while len(self._candidates) > CANDIDATES_MAX:
            self._give_up(min(self._candidates, key=lambda one: self._candidates[one].published_at))
        return None

    def add_chunk(self, version: int, index: int, payload: bytes) -> bool | Rejected:
        """Keeps a chunk. Returns whether a wanted snapshot names it."""
        if len(payload) > CHUNK_BYTES_MAX:
            return Rejected(
                f"model {version}: chunk {index} has {len(payload)} bytes, over the limit of {CHUNK_BYTES_MAX}"
            )
        key = (version, hashlib.sha256(payload).digest())
        if key in self._held_chunks:
            return False  # the broker sends all retained chunks again after each reconnect
        return self._chunks.add(key, payload) or self._unexpected(version, index)

    def _unexpected(self, version: int, index: int) -> bool | Rejected:
        """A chunk of a wanted snapshot with other bytes than announced: damaged, or of a line yet to be announced."""
        for key, manifest in self._candidates.items():
            if manifest.snapshot_version == version and key not in self._warned_of:
                self._warned_of.append(key)
                return Rejected(
                    f"model {version}: chunk {index} does not have its digest; waiting for it to come again"
                )
        return False

    def complete(self) -> Iterator[tuple[Manifest, bytes, PublishedVersion | Rejected]]:
        """Takes out the snapshots that are complete: the manifest, the encoded model, and the decoded one.

        A snapshot that is given up while the caller iterates is skipped.
        """
        for key, manifest in tuple(self._candidates.items()):
            if key not in self._candidates or not self._chunks.is_complete(key):
                continue
            chunks = dict(enumerate(self._chunks.of(key)))
            self._give_up(key)
            try:
                published = assemble_snapshot(manifest, chunks, limits=self._limits)
            except DecodeError as error:
                self._broken.append(key[1])  # one warning; the same version announced again may be sound
                yield manifest, b"", Rejected(f"a model could not be used: {error}")
                continue
            assert published is not None, "all chunks are here"
            yield manifest, manifest.inline or b"".join(chunks.values()), published

    def starts(self) -> list[Start]:
        """The snapshots as versions from which deltas may lead on."""
        return [
            Start(
                manifest.snapshot_version,
                None,
                missing_bytes=manifest.size_bytes - self._chunks.received_bytes(key),
                is_snapshot=True,
            )
            for key, manifest in self._candidates.items()
        ]

    def give_up_before(self, manifest: Manifest) -> None:
        """Gives up the snapshots whose manifests were published before this one."""
        for key, candidate in tuple(self._candidates.items()):
            if is_later(manifest.published_at, candidate.published_at):
                self._give_up(key)

    def held(self, held: Manifest) -> list[Manifest]:
        """Gives up what is of no use now that this version is held. Returns the manifests that are not newer."""
        self._held_chunks = frozenset(chunk_keys(held))
        superseded = []
        for key, candidate in tuple(self._candidates.items()):
            if not is_newer(candidate, held) or candidate.snapshot_version <= held.version:
                self._give_up(key)
                if not is_newer(candidate, held):
                    superseded.append(candidate)
        self._chunks.drop(up_to=held.version)
        return superseded

    def _give_up(self, key: VersionKey) -> None:
        del self._candidates[key]
        self._chunks.give_up(key)
