"""Assembles the newest model from manifests, deltas and chunks, in any order and however often they arrive. Pure.

Its state follows from the table `TRANSITIONS` below. The target is the newest announced version that is not held yet.
What changes the state:

- AIM: a manifest announces the new target: a version newer than the held one and the target (`manifest_order`), or
  any version if the held one is disowned. A superseded version is not taken again unless it is published again:
  a broker may deliver late, and the device would return to a model line that has ended.
- CONFIRM: the held version is announced again. If that is later than the target was published, the target is given up
  (ABANDON): the aggregator confirms the version of its model line, whatever another publisher announced in between.
- DISOWN: the aggregator does not know the held version; its ledger is another one, or older. Whatever it announces next
  is taken, even a lower version published earlier. Until then the held model stays.
- ABANDON: the target is unobtainable or superseded.
- PASS: a version between the held one and the target is complete and now held. REACH: the target is complete and now
  held.

How the target is reached is planned in `download_plan`: `wanted` says what to subscribe to, and anything that arrives
unrequested is used as well. A delta that is broken or does not come is left out of the plan until the manifest comes
again. Every version is verified by its digest. Invalid input leaves the held model as it is and gives one `Rejected`.
"""

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum, auto

import msgspec

from device_client.downlink.chunk_store import UNCLAIMED_BYTES_MAX
from device_client.downlink.delta_store import BrokenDelta, DeltaStore
from device_client.downlink.download_plan import DeltaTopics, Start, Wanted, plan
from device_client.downlink.manifest_order import (
    SUPERSEDED_MAX,
    SupersededVersions,
    announces_same_version,
    is_later,
    is_newer,
    version_key,
)
from device_client.downlink.outcome import NewModel, Outcome, Rejected
from device_client.downlink.snapshots import Snapshots
from wire_contract import codec
from wire_contract.encoding import encode_vector
from wire_contract.errors import DecodeError
from wire_contract.limits import MODEL_LIMITS, Limits
from wire_contract.messages import Delta, Manifest
from wire_contract.publication.manifest import PublishedVersion, model_message, with_inline
from wire_contract.signatures.envelope import read_unverified


class State(Enum):
    """Which model is held, and whether there is a target."""

    EMPTY = "no model is held, none is announced"
    JOINING = "no model is held, the target is announced"
    CURRENT = "the newest announced version is held"
    BEHIND = "a version is held, the target is newer"
    DISOWNED = "the aggregator does not know the held version, and has announced no other"
    REPLACING = "the aggregator does not know the held version, the target takes its place"


class Change(Enum):
    """What changes the state; see the module. In the order of the table's columns."""

    AIM = auto()
    CONFIRM = auto()
    DISOWN = auto()
    ABANDON = auto()
    PASS = auto()
    REACH = auto()


_E, _J, _C, _B, _D, _R = State
_X = None
# fmt: off
TRANSITIONS: Mapping[State, Sequence[State | None]] = {
    #                AIM CONFIRM DISOWN ABANDON PASS REACH
    State.EMPTY:     (_J,  _X,     _X,    _X,    _X,  _C),
    State.JOINING:   (_J,  _X,     _X,    _E,    _B,  _C),
    State.CURRENT:   (_B,  _C,     _D,    _X,    _X,  _C),
    State.BEHIND:    (_B,  _B,     _R,    _C,    _B,  _C),
    State.DISOWNED:  (_R,  _C,     _D,    _X,    _X,  _C),
    State.REPLACING: (_R,  _B,     _R,    _D,    _B,  _C),
}
# fmt: on
"""The state after each change, named by its first letter; _X: the change does not happen in this state."""


class Inbox:
    """Holds the newest complete model of one task."""

    def __init__(
        self, task: str, *, unclaimed_bytes_max: int = UNCLAIMED_BYTES_MAX, limits: Limits = MODEL_LIMITS
    ) -> None:
        self._task = task
        self.announcement: Manifest | None = None
        """The manifest of this task that arrived last."""
        self._state = State.EMPTY
        self._held: NewModel | None = None
        self._target: Manifest | None = None
        """None in the states without a target: EMPTY, CURRENT and DISOWNED."""
        self._wanted = Wanted()
        self._snapshots = Snapshots(unclaimed_bytes_max=unclaimed_bytes_max, limits=limits)
        self._base: PublishedVersion | None = None
        """A complete snapshot between the held version and the target, useful only with the deltas after it."""
        self._deltas = DeltaStore()
        self._delta_topics = DeltaTopics()
        self._superseded = SupersededVersions()
        self._passed_over: Manifest | None = None
        """The last manifest, if it was not newer than what is held."""
        self._broken: deque[bytes] = deque(maxlen=SUPERSEDED_MAX)
        """Digests of deltas that were found to be broken."""

    @property
    def held(self) -> NewModel | None:
        """The newest complete model. Its manifest states the shards and limits that were announced last."""
        return self._held

    @property
    def wanted(self) -> Wanted:
        """The delta and chunk topics to subscribe to."""
        return self._wanted

    @property
    def target(self) -> Manifest | None:
        """The newest announced version, if it is not held yet."""
        return self._target

    @property
    def is_behind(self) -> bool:
        """Whether a newer version has been announced than is held."""
        return self._target is not None

    @property
    def is_disowned(self) -> bool:
        """Whether the aggregator does not know the held version."""
        return self._state in {State.DISOWNED, State.REPLACING}

    # --- input ------------------------------------------------------------------------------------------------------

    def manifest(self, payload: bytes) -> Outcome:
        """A message of the model topic. Signatures are not checked here; a device with pinned keys checks them first
        (`model_trust`). An empty message (a cleared retained one) means nothing.
        """
        if not payload:
            return None
        try:
            manifest = read_unverified(payload, Manifest)
        except DecodeError as error:
            return Rejected(f"a manifest could not be read: {error}")
        return self.announced(manifest)

    def announced(self, manifest: Manifest) -> Outcome:
        """A manifest that was decoded (and checked, where keys are pinned), or was cached in the outbox."""
        if manifest.task != self._task:
            return Rejected(f"a manifest is of task {manifest.task!r}, not {self._task!r}")
        self.announcement = manifest
        if self._held is not None and version_key(manifest) == version_key(self._held.manifest):
            return self._confirm(self._held, manifest)
        if self._held is not None and not self._is_to_be_taken(manifest, self._held.manifest):
            self._passed_over = manifest
            return None
        self._passed_over = None
        rejected = self._snapshots.add(manifest)
        self._aim_at(manifest)
        if manifest.delta is not None:
            rejected = self._take_delta(manifest.version, manifest.delta) or rejected
        return self._advance() or rejected

    def disown(self, version: int, digest: bytes) -> Outcome:
        """The aggregator does not know this version with these weights. Ignored unless it is the held one."""
        if self._held is None or version_key(self._held.manifest) != (version, digest):
            return None
        self._change(Change.DISOWN)
        self._superseded.clear()
        return None if self._passed_over is None else self.announced(self._passed_over)

    def delta(self, version: int, payload: bytes) -> Outcome:
        """A message of a delta topic. An empty one (a deleted delta) means nothing."""
        if not payload or (self._target is None and self._held is not None and version <= self._held.published.version):
            return None
        rejected = self._take_delta(version, payload)
        return self._advance() or rejected

    def chunk(self, version: int, index: int, payload: bytes) -> Outcome:
        """A message of a chunk topic. An empty one (a deleted version) means nothing."""
        if not payload:
            return None
        match self._snapshots.add_chunk(version, index, payload):
            case Rejected() as rejected:
                return rejected
            case is_wanted:
                return self._advance() if is_wanted else None

    def _change(self, change: Change) -> None:
        after = TRANSITIONS[self._state][change.value - 1]
        assert after is not None, f"{change.name} in state {self._state.name}"
        self._state = after

    def _confirm(self, held: NewModel, manifest: Manifest) -> Outcome:
        """The held version is announced again, perhaps with other limits or shards, or later than the target. Another
        description of its line is reported: two lines that began with the same weights share their first version.
        """
        self._passed_over = None
        self._change(Change.CONFIRM)
        fresh = msgspec.structs.replace(
            held.manifest,
            shards=manifest.shards,
            update_bytes_max=manifest.update_bytes_max,
            published_at=max(manifest.published_at, held.manifest.published_at),
            line=held.manifest.line if manifest.line is None else manifest.line,
        )
        self._held = NewModel(held.published, fresh)
        if is_later(manifest.published_at, held.manifest.published_at):
            self._give_up_target_before(manifest)
        return None if fresh.line == held.manifest.line else self._held

    def _give_up_target_before(self, manifest: Manifest) -> None:
        target = self._target
        if target is None or not is_later(manifest.published_at, target.published_at):
            return
        self._superseded.add(target)
        self._snapshots.give_up_before(manifest)
        self._base = None
        self._abandon_target()
        self._delta_topics.reopen()
        self._wanted = self._plan()

    def _abandon_target(self) -> None:
        self._target = None
        self._change(Change.ABANDON)

    def _is_to_be_taken(self, manifest: Manifest, held: Manifest) -> bool:
        if self.is_disowned:
            return True
        return not self._superseded.covers(manifest) and is_newer(manifest, held)

    def _aim_at(self, manifest: Manifest) -> None:
        """Makes it the target if it is the newest."""
        if self._target is not None and announces_same_version(manifest, self._target):
            self._delta_topics.reopen()  # a new connection: what did not come, or was broken, may come now
            self._deltas.clear()  # if the two manifests differ, one was damaged, and the later may be the right one
        elif self._target is not None and not is_newer(manifest, self._target):
            return
        elif self._target is not None and manifest.version <= self._target.version:
            self._delta_topics.reopen()  # another line: deltas of these numbers that were broken were not its own
        self._target = manifest
        self._change(Change.AIM)

    def _advance(self) -> Outcome:
        """Goes as far towards the target as what has been received allows, and plans the rest."""
        before = self._held
        rejected = self._use_snapshots()
        rejected = self._use_deltas() or rejected
        self._wanted = self._plan()
        return self._held if self._held is not before else rejected

    def _use_snapshots(self) -> Rejected | None:
        """Uses the snapshots that are complete."""
        rejected = None
        for manifest, payload, published in self._snapshots.complete():
            if isinstance(published, Rejected):
                rejected = published
                if manifest is self._target and manifest.inline is not None:
                    self._abandon_target()  # there is no other way to it
                continue
            held_version = -1 if self._held is None else self._held.published.version
            if published.version > held_version or manifest.version <= held_version:  # newer, or of a new line
                self._hold(published, manifest, payload)
            else:
                self._base = published
        return rejected

    def _use_deltas(self) -> Rejected | None:
        """Goes to the target if all deltas of a chain are here."""
        rejected = None
        for base in self._bases():
            target = self._target
            chain = None if target is None else self._deltas.chain(target, base.version, base.digest)
            if target is None or chain is None or chain.missing:
                continue
            try:
                published = self._deltas.apply(base, chain)
            except BrokenDelta as error:
                self._broken.append(hashlib.sha256(error.delta.payload).digest())
                self._close_topic(error.delta.version)
                rejected = Rejected(f"a delta could not be used: {error}")
                continue
            grid = codec.decode(chain.deltas[-1].payload, Delta).grid
            tensors = encode_vector(published.weights, published.layout, grid)
            self._hold(published, target, model_message(published, tensors, parent=published.version - 1))
        return rejected

    def _bases(self) -> list[PublishedVersion]:
        """Complete versions from which deltas may lead on."""
        bases = [] if self._held is None else [self._held.published]
        if self._base is not None:
            bases.append(self._base)
        # A digest covers the weights alone; their names and shapes are stated only in the target's manifest.
        target = self._target
        return [one for one in bases if target is None or one.layout.fingerprint == target.layout_fingerprint]

    def _hold(self, published: PublishedVersion, manifest: Manifest, payload: bytes) -> None:
        if self._held is not None:
            self._superseded.add(self._held.manifest)
        self._held = NewModel(published, with_inline(manifest, published, payload))
        held = self._held.manifest
        self._base = None
        for candidate in self._snapshots.held(held):
            self._superseded.add(candidate)
        if self._target is not None and is_newer(self._target, held):
            self._change(Change.PASS)
            return
        self._target = None
        self._change(Change.REACH)
        self._deltas.drop(up_to=published.version)
        self._delta_topics.reopen()

    def _plan(self) -> Wanted:
        if self._target is None:
            return Wanted()
        starts = [Start(base.version, base.digest) for base in self._bases()] + self._snapshots.starts()
        held_version = -1 if self._held is None else self._held.published.version
        return plan(self._target, starts, self._deltas, self._delta_topics, held_version=held_version)

    def _take_delta(self, version: int, payload: bytes) -> Rejected | None:
        """Stores a delta for a chain."""
        name = hashlib.sha256(payload).digest()
        if name in self._broken:
            return None
        try:
            delta = codec.decode(payload, Delta)
            if (delta.task, delta.version) != (self._task, version):
                raise DecodeError(f"it is of task {delta.task!r}, version {delta.version}")  # noqa: TRY301
        except DecodeError as error:
            self._broken.append(name)
            self._close_topic(version)
            return Rejected(f"delta {version} could not be used: {error}")
        self._deltas.add(delta, payload)
        self._delta_topics.closed.discard(version)
        return None

    def _close_topic(self, version: int) -> None:
        """Leaves a delta topic out of the plan for now, if it was subscribed to or the delta came inside the manifest,
        since it then holds the same bytes. A broken delta that came unrequested says nothing about the topic.
        """
        inline = self._target is not None and self._target.delta is not None and version == self._target.version
        if self._target is not None and (inline or version in self._delta_topics.wanted_since):
            self._delta_topics.closed.add(version)
