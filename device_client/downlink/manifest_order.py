"""Which of two manifests is newer, and which versions are over. Pure.

A version number alone does not decide: an aggregator that starts a new model line may use a number again, with other
weights. So a version is named by its number and the digest of its weights, and among equal or lower numbers the later
publication wins.
"""

import hashlib
from collections import OrderedDict

from wire_contract.limits import MOMENT_MAX
from wire_contract.messages import Manifest

SUPERSEDED_MAX = 64
"""Superseded versions remembered. Far more than the messages that a broker may still deliver late, and bounded."""

VersionKey = tuple[int, bytes]
"""A version number and a SHA-256: of the weights, or of a snapshot."""


def is_later(moment: float, than: float) -> bool:
    """Compares two times of publication, Unix seconds.

    At `MOMENT_MAX`, the last time that a manifest may state, the manifest that arrives last counts as the later one.
    """
    return moment > than or moment >= MOMENT_MAX


def is_newer(manifest: Manifest, than: Manifest) -> bool:
    """Whether it has a higher version, or other weights and was published later (a new model line)."""
    if manifest.version > than.version:
        return True
    return manifest.digest != than.digest and is_later(manifest.published_at, than.published_at)


def announces_same_version(one: Manifest, other: Manifest) -> bool:
    """Whether both announce one version of one model line."""
    same_publication = (one.version, one.published_at) == (other.version, other.published_at)
    return same_publication or version_key(one) == version_key(other)


def version_key(manifest: Manifest) -> VersionKey:
    """The announced version and the digest of its weights."""
    return manifest.version, manifest.digest


def snapshot_key(manifest: Manifest) -> VersionKey:
    """A snapshot and everything it is verified by; manifests of several versions may name the same snapshot."""
    parts = [*manifest.chunk_digests, manifest.layout_fingerprint, manifest.size_bytes.to_bytes(8, "big")]
    if manifest.snapshot_version == manifest.version:
        parts.append(manifest.digest)
    if manifest.inline is not None:
        parts.append(hashlib.sha256(manifest.inline).digest())
    return manifest.snapshot_version, hashlib.sha256(b"".join(parts)).digest()


def chunk_keys(manifest: Manifest) -> list[VersionKey]:
    """The snapshot's chunks as the chunk store names them, in the order of the payload."""
    return [(manifest.snapshot_version, digest) for digest in manifest.chunk_digests]


class SupersededVersions:
    """The versions that were replaced, with their latest known time of publication; bounded.

    A broker may deliver late. Without this memory a device would return to a model line that has ended.
    """

    def __init__(self) -> None:
        self._published_at: OrderedDict[VersionKey, float] = OrderedDict()

    def add(self, manifest: Manifest) -> None:
        """This version was replaced; the oldest entry is forgotten if there are too many."""
        self._published_at[version_key(manifest)] = manifest.published_at
        while len(self._published_at) > SUPERSEDED_MAX:
            self._published_at.popitem(last=False)

    def covers(self, manifest: Manifest) -> bool:
        """Whether the manifest announces a replaced version that has not been published again since."""
        published_at = self._published_at.get(version_key(manifest))
        return published_at is not None and not is_later(manifest.published_at, published_at)

    def clear(self) -> None:
        """Forgets all of them."""
        self._published_at.clear()
