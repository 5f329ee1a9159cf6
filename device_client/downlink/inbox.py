"""The newest model out of manifests, deltas and chunks, in whatever order and however often they come. Pure: no link,
no clock. It says in `wanted` what the broker is to be asked for; what comes unasked is used as well.

- A manifest is taken when its version is higher than the held one, or when it is of other weights and was published
  later: then the aggregator began a new line. One that has been superseded does not come back (a broker may deliver
  late), or a device would return to a line that is dead; unless it was published anew since.
- The held version published anew, and later than what is under way, ends what is under way: the aggregator says so that
  its line stands where it stood, whatever somebody else announced in between.
- When the aggregator says that it does not know the held version (`disown`), whatever it announces is taken instead,
  also a lower version that was published earlier: its ledger is another one, or older.
- The way to the newest version is the cheaper one in bytes: the deltas from the held version, or a snapshot and the
  deltas after it. A delta that is broken, or does not come, is no way until the manifest comes again.
- A snapshot that is newer than the held version is held while the deltas after it are under way.
- Chunks are kept by version and SHA-256, since that is how a manifest names them. Chunks that nobody has asked for yet
  are kept as well, up to a number of bytes; the oldest go first.
- Every version is verified by its digest. Whatever is wrong leaves the held model as it is and gives one `Rejected`.
"""

import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass

import msgspec

from device_client.downlink.chunk_store import EARLY_BYTES_MAX, ChunkKey, ChunkStore
from device_client.downlink.delta_store import BrokenLink, DeltaStore
from wire_contract import codec
from wire_contract.encoding import encode_vector
from wire_contract.errors import DecodeError
from wire_contract.limits import CHUNK_BYTES_MAX, MODEL_LIMITS, MOMENT_MAX, Limits
from wire_contract.messages import Delta, Manifest
from wire_contract.publication.manifest import Published, assemble, model_message, with_inline
from wire_contract.signatures.envelope import read

CANDIDATES_MAX = 4
"""Announced snapshots that may be incomplete at a time; the aggregator keeps two."""
SUPERSEDED_MAX = 64
"""Superseded versions remembered."""
PATIENCE_VERSIONS = 2
"""A delta that was asked for so many versions ago will not come: the broker has lost or refused it."""

_Key = tuple[int, bytes]
"""A version, and the digest of its weights: a new line may use a version number again."""


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
"""None: nothing to tell (an old version, a piece of an incomplete one)."""


@dataclass(frozen=True)
class Wanted:
    """What the broker is to be asked for now."""

    deltas: tuple[int, ...] = ()
    """Versions whose delta topics are to be subscribed to."""
    snapshot: int | None = None
    """The version whose chunk topics are."""


class Inbox:
    """Holds the newest complete model of one task."""

    def __init__(self, task: str, *, early_bytes_max: int = EARLY_BYTES_MAX, limits: Limits = MODEL_LIMITS) -> None:
        self._task = task
        self._limits = limits
        self._held: NewModel | None = None
        self._target: Manifest | None = None
        self._wanted = Wanted()
        self._candidates: dict[_Key, Manifest] = {}
        """Manifests whose snapshots are not complete, by snapshot."""
        self._base: Published | None = None
        """A complete snapshot that is of use only with the deltas after it."""
        self._chunks = ChunkStore(early_bytes_max)
        self._held_chunks: frozenset[ChunkKey] = frozenset()
        self._deltas = DeltaStore()
        self._asked: dict[int, int] = {}
        """Version of a delta to the version that it was first wanted for."""
        self._closed: set[int] = set()
        """Versions whose deltas are broken or do not come."""
        self._superseded: OrderedDict[_Key, float] = OrderedDict()
        """Versions that are over, with the moment of publication that was known."""
        self._is_disowned = False
        """Whether the held version is one that the aggregator does not know."""
        self._passed_over: Manifest | None = None
        """The last manifest, where it was not newer than what is held."""
        self._broken: deque[bytes] = deque(maxlen=SUPERSEDED_MAX)
        self._complained: deque[_Key] = deque(maxlen=SUPERSEDED_MAX)

    @property
    def held(self) -> NewModel | None:
        """The newest complete model. Its manifest's shards and limits are those last announced."""
        return self._held

    @property
    def wanted(self) -> Wanted:
        """What to subscribe to, and nothing else of deltas and chunks."""
        return self._wanted

    @property
    def is_behind(self) -> bool:
        """Whether a newer version was announced than is held."""
        return self._target is not None

    @property
    def target(self) -> Manifest | None:
        """The newest announced version, where it is not held yet."""
        return self._target

    @property
    def chunk_bytes(self) -> int:
        """Memory taken by chunks."""
        return self._chunks.size_bytes

    # -- what comes

    def manifest(self, payload: bytes) -> Outcome:
        """A message of the model topic, plain or signed by whomever: who pins keys checks it before (`model_trust.py`).
        An empty one (a cleared retained message) says nothing.
        """
        if not payload:
            return None
        try:
            manifest = read(payload, Manifest)
        except DecodeError as error:
            return Rejected(f"a manifest could not be read: {error}")
        return self.announced(manifest)

    def announced(self, manifest: Manifest) -> Outcome:
        """A manifest that was read already (and checked, by who pins keys), or that was cached by the outbox."""
        if manifest.task != self._task:
            return Rejected(f"a manifest is of task {manifest.task!r}, not {self._task!r}")
        if self._held is not None and _key(manifest) == _key(self._held.manifest):
            self._passed_over, self._is_disowned = None, False
            is_anew = _is_later(manifest.published_at, self._held.manifest.published_at)
            self._refresh(self._held, manifest)
            if is_anew:
                self._drop_target_before(manifest)
            return None
        if self._held is not None and not self._is_to_be_taken(manifest, self._held.manifest):
            self._passed_over = manifest
            return None
        self._passed_over = None
        rejected = self._add_candidate(manifest)
        self._aim_at(manifest)
        if manifest.delta is not None:
            rejected = self._take_delta(manifest.version, manifest.delta) or rejected
        return self._advance() or rejected

    def disown(self, version: int, digest: bytes) -> Outcome:
        """The aggregator does not know this version with these weights. If it is the held one, what the aggregator
        announces takes its place; until that is here, the held one stays.
        """
        if self._held is None or _key(self._held.manifest) != (version, digest):
            return None
        self._is_disowned = True
        self._superseded.clear()
        return None if self._passed_over is None else self.announced(self._passed_over)

    @property
    def is_disowned(self) -> bool:
        """Whether the held version is one that the aggregator does not know."""
        return self._is_disowned

    def delta(self, version: int, payload: bytes) -> Outcome:
        """A message of a delta topic. An empty one (a deleted delta) says nothing."""
        if not payload or (self._target is None and self._held is not None and version <= self._held.published.version):
            return None
        rejected = self._take_delta(version, payload)
        return self._advance() or rejected

    def chunk(self, version: int, index: int, payload: bytes) -> Outcome:
        """A message of a chunk topic. An empty one (a deleted version) says nothing."""
        if not payload:
            return None
        if len(payload) > CHUNK_BYTES_MAX:
            return Rejected(
                f"model {version}: chunk {index} has {len(payload)} bytes, over the limit of {CHUNK_BYTES_MAX}"
            )
        key = (version, hashlib.sha256(payload).digest())
        if key in self._held_chunks:
            return None  # the broker sends all retained chunks again after each reconnect
        if self._chunks.add(key, payload):
            return self._advance()
        return self._unexpected(version, index)

    # -- what follows of it

    def _add_candidate(self, manifest: Manifest) -> Rejected | None:
        """Its snapshot may be the way."""
        key = _snapshot_key(manifest)
        if key[1] in self._broken:
            return None
        if manifest.size_bytes > self._limits.compressed_bytes:
            self._broken.append(key[1])
            return Rejected(
                f"model {manifest.snapshot_version}: {manifest.size_bytes} bytes are over the limit of "
                f"{self._limits.compressed_bytes}"
            )
        if key not in self._candidates:
            self._chunks.seek(key, chunk_keys(manifest) if manifest.inline is None else ())
        self._candidates[key] = manifest
        while len(self._candidates) > CANDIDATES_MAX:
            self._give_up(min(self._candidates, key=lambda one: self._candidates[one].published_at))
        return None

    def _give_up(self, key: _Key) -> None:
        """A snapshot is no longer waited for."""
        del self._candidates[key]
        self._chunks.give_up(key)

    def _aim_at(self, manifest: Manifest) -> None:
        """Goes for its version, if that is the newest."""
        if self._target is not None and _same_moment(manifest, self._target):
            self._reopen()  # a new connection: what did not come, or was wrong, may come now
            self._deltas.clear()
            self._target = manifest  # if the two differ, one was damaged, and the last word may be the true one
        elif self._target is None or self._is_newer(manifest, self._target):
            if self._target is not None and manifest.version <= self._target.version:
                self._reopen()  # another line: what was wrong with these numbers says nothing
            self._target = manifest

    def _advance(self) -> Outcome:
        """Goes as far as what is here leads, and plans the rest."""
        before = self._held
        rejected = self._take_snapshots()
        rejected = self._take_deltas() or rejected
        self._wanted = self._plan()
        return self._held if self._held is not before else rejected

    def _take_snapshots(self) -> Rejected | None:
        """Uses the snapshots that are complete."""
        rejected = None
        for key, manifest in tuple(self._candidates.items()):
            if key not in self._candidates or not self._chunks.is_complete(key):
                continue
            chunks = dict(enumerate(self._chunks.of(key)))
            self._give_up(key)
            try:
                published = assemble(manifest, chunks, limits=self._limits)
            except DecodeError as error:
                self._broken.append(key[1])  # one warning; the same version announced anew may be sound
                rejected = Rejected(f"a model could not be used: {error}")
                if manifest is self._target and manifest.inline is not None:
                    self._target = None  # there is no other way to it
                continue
            assert published is not None, "all chunks are here"
            if self._surpasses(published, manifest):
                self._hold(published, manifest, manifest.inline or b"".join(chunks.values()))
            else:
                self._base = published
        return rejected

    def _take_deltas(self) -> Rejected | None:
        """Walks to the newest version, if all of a way is here."""
        rejected = None
        for base in self._bases():
            target = self._target
            way = None if target is None else self._deltas.way(target, base.version, base.digest)
            if target is None or way is None or way.missing:
                continue
            try:
                published = self._deltas.walk(base, way)
            except BrokenLink as error:
                self._broken.append(hashlib.sha256(error.link.payload).digest())
                self._close(error.link.version)
                rejected = Rejected(f"a delta could not be used: {error}")
                continue
            grid = codec.decode(way.links[-1].payload, Delta).grid
            tensors = encode_vector(published.weights, published.layout, grid)
            self._hold(published, target, model_message(published, tensors, parent=published.version - 1))
        return rejected

    def _bases(self) -> list[Published]:
        """Complete versions that deltas may lead on from."""
        bases = [] if self._held is None else [self._held.published]
        if self._base is not None:
            bases.append(self._base)
        # A digest is of the weights alone: what names and shapes they have, only the target's manifest says.
        target = self._target
        return [one for one in bases if target is None or one.layout.fingerprint == target.layout_fingerprint]

    def _hold(self, published: Published, manifest: Manifest, payload: bytes) -> None:
        if self._held is not None:
            self._supersede(self._held.manifest)
        self._is_disowned = False
        self._held = NewModel(published, with_inline(manifest, published, payload))
        held = self._held.manifest
        self._held_chunks = frozenset(chunk_keys(held))
        self._base = None
        for key, candidate in tuple(self._candidates.items()):
            if not self._is_newer(candidate, held) or candidate.snapshot_version <= published.version:
                self._give_up(key)
                if not self._is_newer(candidate, held):
                    self._supersede(candidate)
        self._chunks.drop(up_to=published.version)
        if self._target is not None and not self._is_newer(self._target, held):
            self._target = None
        if self._target is None:
            self._deltas.drop(up_to=published.version)
            self._reopen()

    def _plan(self) -> Wanted:
        """The cheapest way that is open."""
        target = self._target
        if target is None:
            return Wanted()
        self._closed |= {one for one, since in self._asked.items() if target.version - since >= PATIENCE_VERSIONS}
        starts = [(base.version, base.digest, 0, None) for base in self._bases()] + [
            (manifest.snapshot_version, None, self._missing_bytes(key, manifest), manifest.snapshot_version)
            for key, manifest in self._candidates.items()
        ]
        ways: list[tuple[int, Wanted]] = []
        for version, digest, size_bytes, snapshot in starts:
            if version == target.version and snapshot is not None:
                ways.append((size_bytes, Wanted(snapshot=snapshot)))
            way = self._deltas.way(target, version, digest)
            if way is not None and not self._closed & set(way.missing):
                deltas_bytes = sum(target.delta_sizes[target.version - one] for one in way.missing)
                ways.append((size_bytes + deltas_bytes, Wanted(way.missing, snapshot)))
        if ways:
            wanted = min(ways, key=lambda way: way[0])[1]
        else:  # no way to the newest is open, but there may be one to a newer version than is held
            held = -1 if self._held is None else self._held.published.version
            newest = max((version for version, _, _, snapshot in starts if snapshot is not None), default=-1)
            wanted = Wanted(snapshot=newest if newest > held else None)
        for one in wanted.deltas:
            self._asked.setdefault(one, target.version)
        return wanted

    def _missing_bytes(self, key: _Key, manifest: Manifest) -> int:
        return manifest.size_bytes - self._chunks.here_bytes(key)

    def _surpasses(self, snapshot: Published, manifest: Manifest) -> bool:
        """Whether a snapshot is to be held as it is: it is newer, or of a new line."""
        held = self._held
        return held is None or snapshot.version > held.published.version or (manifest.version <= held.published.version)

    def _is_to_be_taken(self, manifest: Manifest, held: Manifest) -> bool:
        if self._is_disowned:
            return True
        over_since = self._superseded.get(_key(manifest))
        is_late = over_since is not None and not _is_later(manifest.published_at, over_since)
        return not is_late and self._is_newer(manifest, held)

    def _supersede(self, manifest: Manifest) -> None:
        self._superseded[_key(manifest)] = manifest.published_at
        while len(self._superseded) > SUPERSEDED_MAX:
            self._superseded.popitem(last=False)

    @staticmethod
    def _is_newer(manifest: Manifest, than: Manifest | None) -> bool:
        if than is None or manifest.version > than.version:
            return True
        return manifest.digest != than.digest and _is_later(manifest.published_at, than.published_at)

    def _take_delta(self, version: int, payload: bytes) -> Rejected | None:
        """Keeps a delta for a way to come."""
        name = hashlib.sha256(payload).digest()
        if name in self._broken:
            return None
        try:
            delta = codec.decode(payload, Delta)
            if (delta.task, delta.version) != (self._task, version):
                raise DecodeError(f"it is of task {delta.task!r}, version {delta.version}")  # noqa: TRY301
        except DecodeError as error:
            self._broken.append(name)
            self._close(version)
            return Rejected(f"delta {version} could not be used: {error}")
        self._deltas.add(delta, payload)
        self._closed.discard(version)
        return None

    def _close(self, version: int) -> None:
        """Its topic is not asked (again) for now; of a delta that is in the manifest, the topic has the same. What came
        unasked and is wrong says nothing of what its topic holds.
        """
        inside = self._target is not None and self._target.delta is not None and version == self._target.version
        if self._target is not None and (inside or version in self._asked):
            self._closed.add(version)

    def _reopen(self) -> None:
        self._closed.clear()
        self._asked.clear()

    def _refresh(self, held: NewModel, manifest: Manifest) -> None:
        """The same version announced again: an aggregator started with other settings has other limits or shards."""
        fresh = msgspec.structs.replace(
            held.manifest,
            shards=manifest.shards,
            update_bytes_max=manifest.update_bytes_max,
            published_at=max(manifest.published_at, held.manifest.published_at),
        )
        self._held = NewModel(held.published, fresh)

    def _drop_target_before(self, manifest: Manifest) -> None:
        target = self._target
        if target is None or not _is_later(manifest.published_at, target.published_at):
            return
        self._supersede(target)
        for key, candidate in tuple(self._candidates.items()):
            if _is_later(manifest.published_at, candidate.published_at):
                self._give_up(key)
        self._target = self._base = None
        self._reopen()
        self._wanted = self._plan()

    def _unexpected(self, version: int, index: int) -> Rejected | None:
        """A chunk of an announced snapshot with other bytes than announced: broken, or of a new line to come."""
        for key, manifest in self._candidates.items():
            if manifest.snapshot_version == version and key not in self._complained:
                self._complained.append(key)
                return Rejected(
                    f"model {version}: chunk {index} does not have its digest; waiting for it to come again"
                )
        return None


def chunk_keys(manifest: Manifest) -> list[_Key]:
    """As chunks are kept."""
    return [(manifest.snapshot_version, digest) for digest in manifest.chunk_digests]


def _same_moment(one: Manifest, other: Manifest) -> bool:
    """Whether both announce one version of one line."""
    same_publication = (one.version, one.published_at) == (other.version, other.published_at)
    return same_publication or _key(one) == _key(other)


def _is_later(moment: float, than: float) -> bool:
    """Of two publications, Unix seconds; at the last moment that is believed, the last word is the later one."""
    return moment > than or moment >= MOMENT_MAX


def _key(manifest: Manifest) -> _Key:
    return manifest.version, manifest.digest


def _snapshot_key(manifest: Manifest) -> _Key:
    """A snapshot, and all by which it is verified: manifests of several versions name the same one."""
    parts = [*manifest.chunk_digests, manifest.layout_fingerprint, manifest.size_bytes.to_bytes(8, "big")]
    if manifest.snapshot_version == manifest.version:
        parts.append(manifest.digest)
    if manifest.inline is not None:
        parts.append(hashlib.sha256(manifest.inline).digest())
    return manifest.snapshot_version, hashlib.sha256(b"".join(parts)).digest()
