"""A line of versions as an aggregator publishes it, and a broker that holds only what is retained of it."""

from collections.abc import Sequence

import numpy as np

from device_client.downlink.inbox import Inbox
from device_client.downlink.outcome import Outcome, Rejected
from tests.device_client.stage import TASK
from wire_contract import codec
from wire_contract.encoding import encode_vector
from wire_contract.layout import Layout, TensorSpec
from wire_contract.limits import INLINE_BYTES_MAX, KEPT_DELTAS
from wire_contract.publication.deltas import EncodeDelta
from wire_contract.publication.manifest import Announcement
from wire_contract.publication.release import Release, first_release, next_release

LAYOUT = Layout((TensorSpec("a.weight", (100, 200)), TensorSpec("a.bias", (50,))))
"""40 kB as a float16 snapshot: two chunks."""
SPARSE = 500


def encode_delta(difference: np.ndarray, layout: Layout) -> tuple:  # type: ignore[type-arg]
    return encode_vector(difference, layout, "int4")


def shelves(
    versions: int,
    *,
    seed: int = 0,
    encode: EncodeDelta | None = encode_delta,
    snapshot_versions: int = KEPT_DELTAS,
    published_at: float = 1_000.0,
    layout: Layout = LAYOUT,
    keys: Sequence[int] = (),
    delta_bytes_max: int = INLINE_BYTES_MAX,
) -> list[Release]:
    """Version 0 and so many after it; those in `keys` have no delta."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal(layout.size).astype(np.float32)
    made = [first_release(weights, task=TASK, layout=layout, encoding="float16", published_at=published_at)]
    for version in range(1, versions + 1):
        weights = weights.copy()
        changed = random.choice(layout.size, SPARSE, replace=False)
        weights[changed] += random.standard_normal(SPARSE).astype(np.float32)
        made.append(
            next_release(
                made[-1],
                weights,
                encoding="float16",
                encode_delta=None if version in keys else encode,
                snapshot_versions=snapshot_versions,
                published_at=published_at + version,
                delta_bytes_max=delta_bytes_max,
            )
        )
    return made


def announced(shelf: Release) -> Announcement:
    return shelf.announcement(shards=1, update_bytes_max=1 << 20)


def large_deltas(versions: int) -> list[Release]:
    """A line whose deltas, in int8, are too large for the manifest."""
    layout = Layout((TensorSpec("a.weight", (150, 200)), TensorSpec("a.bias", (50,))))
    random = np.random.default_rng(0)

    def encode(difference: np.ndarray, of: Layout) -> tuple:  # type: ignore[type-arg]
        noise = random.standard_normal(of.size).astype(np.float32)  # so that LZ4 does not make them small
        return encode_vector(difference + np.float32(0.1) * noise, of, "int8")

    return shelves(versions, encode=encode, layout=layout, delta_bytes_max=40_000)


class Retained:
    """What a broker has of the newest version, handed to an inbox as far as it asks."""

    def __init__(self) -> None:
        self.deltas: dict[int, bytes] = {}
        self.chunks: dict[tuple[int, int], bytes] = {}
        self.manifest = b""
        self.newest: Release | None = None

    def publish(self, shelf: Release) -> None:
        sent = announced(shelf)
        self.newest = shelf
        self.deltas = dict(sent.deltas)
        self.chunks = {one: chunk for one, chunk in self.chunks.items() if one[0] > shelf.snapshot_version - 16}
        self.chunks |= {(shelf.snapshot_version, index): chunk for index, chunk in enumerate(sent.chunks)}
        self.manifest = codec.encode(sent.manifest)

    def give(self, inbox: Inbox, *, turns_max: int = 20) -> tuple[list[Outcome], int]:
        """The manifest, and then whatever is wanted until nothing new is. Outcomes, and bytes of it all."""
        outcomes = [inbox.manifest(self.manifest)]
        size_bytes = len(self.manifest)
        for _ in range(turns_max):
            wanted = inbox.wanted
            for version in wanted.deltas:
                if version in self.deltas:
                    outcomes.append(inbox.delta(version, self.deltas[version]))
                    size_bytes += len(self.deltas[version])
            for (version, index), chunk in self.chunks.items():
                if version == wanted.snapshot:
                    outcomes.append(inbox.chunk(version, index, chunk))
                    size_bytes += len(chunk)
            if inbox.wanted == wanted:
                break
        return [outcome for outcome in outcomes if outcome is not None], size_bytes


def rejections(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.reason for outcome in outcomes if isinstance(outcome, Rejected)]
