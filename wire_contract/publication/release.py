"""What the aggregator keeps on the broker: the newest version, a snapshot that is not too old, and the deltas between.

    versions    … 7        8        9        10       11         the newest is 11
    snapshot               whole
    deltas                 7→8      8→9      9→10     10→11      the last one inside the manifest, if it is small

A version without a delta (a *key version*: the first one, or one whose delta cannot be encoded or is too large) starts
anew: it is its own snapshot, and no delta leads to it. If its snapshot fits into the manifest, it is sent there and
disappears with that manifest; so the next version has a snapshot in chunks.
"""

from contextlib import suppress
from dataclasses import dataclass

from wire_contract.encoding import EncodingName
from wire_contract.errors import EncodeError
from wire_contract.layout import Layout, Vector
from wire_contract.limits import DELTA_BYTES_MAX, INLINE_BYTES_MAX, KEPT_DELTAS
from wire_contract.line_description import LineDescription
from wire_contract.messages import Manifest
from wire_contract.publication.deltas import EncodeDelta, make_delta
from wire_contract.publication.manifest import (
    Announcement,
    PublishedVersion,
    chunk_digests,
    encode_snapshot,
    split_into_chunks,
)

SAVED_BYTES_MIN = 1_024
"""A delta must be smaller than the snapshot by at least this, else the version is published as a snapshot: for small
models, a further topic costs more than it saves."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """All that is published of one version. Made once, and the same after a restart."""

    published: PublishedVersion
    """The newest version."""
    parent: int | None
    encoding: EncodingName
    published_at: float
    model: bytes
    """The newest version as a model message; published only if it is the snapshot."""
    snapshot_version: int
    snapshot: bytes
    """The model message of that version."""
    deltas: tuple[bytes, ...] = ()
    """Delta messages to the newest version, to the one before it, and so on; none in a key version."""

    @property
    def version(self) -> int:
        """Number of the newest version."""
        return self.published.version

    @property
    def is_snapshot(self) -> bool:
        """Whether the newest version is itself the snapshot."""
        return self.snapshot_version == self.version

    @property
    def is_inline(self) -> bool:
        """Whether the snapshot is sent inside the manifest."""
        return not self.deltas and len(self.snapshot) <= INLINE_BYTES_MAX

    @property
    def chunks(self) -> tuple[bytes, ...]:
        """Chunks of the snapshot; none if it is inline."""
        return () if self.is_inline else split_into_chunks(self.snapshot)

    def announcement(
        self,
        *,
        shards: int,
        update_bytes_max: int,
        expires_at: float | None = None,
        next_line: str | None = None,
        closed: bool = False,
        description: LineDescription | None = None,
    ) -> Announcement:
        """The messages to publish; the manifest is valid until `expires_at` (Unix seconds; None: for ever).

        `next_line`, `closed` and `description` (`line`): as in the manifest.
        """
        chunks = self.chunks
        manifest = Manifest(
            task=self.published.task,
            version=self.version,
            parent=self.parent,
            digest=self.published.digest,
            layout_fingerprint=self.published.layout.fingerprint,
            encoding=self.encoding,
            snapshot=None if self.is_snapshot else self.snapshot_version,
            size_bytes=len(self.snapshot),
            chunk_digests=chunk_digests(chunks),
            inline=self.snapshot if self.is_inline else None,
            delta=next((newest for newest in self.deltas[:1] if len(newest) <= INLINE_BYTES_MAX), None),
            delta_sizes=tuple(map(len, self.deltas)),
            shards=shards,
            update_bytes_max=update_bytes_max,
            published_at=self.published_at,
            expires_at=expires_at,
            next_line=next_line,
            closed=closed,
            line=description,
        )
        oldest = self.version - len(self.deltas) + 1
        return Announcement(manifest, chunks, self.published, dict(enumerate(reversed(self.deltas), oldest)))


def first_release(
    weights: Vector,
    *,
    task: str,
    layout: Layout,
    encoding: EncodingName,
    published_at: float,
    version: int = 0,
    parent: int | None = None,
) -> Release:
    """A key version with the master `weights` (layout.size,); its parent is the version before, unless given.

    Raises:
        EncodeError: the weights are not finite or do not fit the encoding.
    """
    if parent is None and version:
        parent = version - 1
    model, published = encode_snapshot(
        weights, task=task, version=version, parent=parent, layout=layout, encoding=encoding
    )
    return Release(
        published=published,
        parent=parent,
        encoding=encoding,
        published_at=published_at,
        model=model,
        snapshot_version=version,
        snapshot=model,
    )


def next_release(
    before: Release,
    weights: Vector,
    *,
    encoding: EncodingName,
    encode_delta: EncodeDelta | None,
    snapshot_versions: int,
    published_at: float,
    delta_bytes_max: int = INLINE_BYTES_MAX,
) -> Release:
    """The version after `before`, with the master `weights` (layout.size,).

    Args:
        before: the release that devices have.
        weights: (layout.size,) master weights of the new version.
        encoding: of snapshots; also determines the grid of deltas.
        encode_delta: encodes a difference; None: no deltas.
        snapshot_versions: versions from one snapshot to the next, at most; 1 to KEPT_DELTAS.
        published_at: Unix seconds.
        delta_bytes_max: size of a delta message, up to DELTA_BYTES_MAX; if it is larger, a key version is published.

    Raises:
        EncodeError: the weights are not finite or do not fit the encoding.
    """
    assert 1 <= snapshot_versions <= KEPT_DELTAS, f"snapshot_versions {snapshot_versions}"
    assert delta_bytes_max <= DELTA_BYTES_MAX, f"delta_bytes_max {delta_bytes_max}"
    version, task, layout = before.version + 1, before.published.task, before.published.layout
    if encode_delta is not None:
        with suppress(EncodeError):
            delta, published = make_delta(
                weights, before.published, encoding=encoding, encode=encode_delta, bytes_max=delta_bytes_max
            )
            model, decoded = encode_snapshot(
                published.weights, task=task, version=version, parent=before.version, layout=layout, encoding=encoding
            )
            assert decoded.digest == published.digest, "a snapshot represents its grid exactly"
            if len(delta) + SAVED_BYTES_MIN <= len(model):
                is_due = before.is_inline or version - before.snapshot_version >= snapshot_versions
                return Release(
                    published=published,
                    parent=before.version,
                    encoding=encoding,
                    published_at=published_at,
                    model=model,
                    snapshot_version=version if is_due else before.snapshot_version,
                    snapshot=model if is_due else before.snapshot,
                    deltas=(delta, *before.deltas)[:KEPT_DELTAS],
                )
    return first_release(
        weights, task=task, layout=layout, encoding=encoding, published_at=published_at, version=version
    )
