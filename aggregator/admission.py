"""Whether an update is merged, was merged before, or is refused, and why. Pure: no clock, no disk, no link.

The checks run from cheap to dear. What is already in the ledger gets the answer it got then, so that an update which
comes twice (broker redelivery, a device that saw no receipt) is counted once whatever became of it.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from msgspec import structs

from aggregator.merging.peers import BUDGET_RATIO, budget_of, scale_of
from aggregator.merging.staleness import ABSENCE_MAX, SAMPLES_RATIO_MAX, Decay, SampleWeight, weight_of
from wire_contract.encoding import decode_vector
from wire_contract.errors import DecodeError, LimitExceeded
from wire_contract.layout import Layout, Vector
from wire_contract.limits import UPDATE_LIMITS, Limits
from wire_contract.message_fields import PAYLOAD_DIGEST_BYTES, Outcome, RefusalReason
from wire_contract.messages import Receipt, Update
from wire_contract.signatures.envelope import unwrap
from wire_contract.signatures.signing import NotTrusted, PublicKey, verified_signers
from wire_contract.topics import ParsedTopic, shard_of

DeviceKey = tuple[str, bytes]
"""Device and incarnation."""

INCARNATIONS_KEPT = 16
"""So many reinstallations of one device are remembered; of older ones the journal knows, as far as it reaches."""

_DETAIL_CHARACTERS_MAX = 300
_NORM_MAX = 1e15
"""Whatever the model's norm: times the largest weight, 1,000 absences of one with the most samples that may count, and
for any number of updates this stays finite in float32, so that no accepted update can leave a model that cannot be
published."""
_FAR = 30.0
"""Times the budget of a slot. An update of such a norm, which is also over the model's own, is refused rather than
scaled down: its direction says nothing. Backlogs are sums of ordinary updates and are never refused for it, nor are
devices that all begin to learn faster, as long as a round does not replace the model. While nothing is known of other
devices, only the model's norm is there to compare with (`norm_ratio_max`)."""


@dataclass(frozen=True, kw_only=True)
class AdmissionPolicy:
    """What the operator chose."""

    decay: Decay = "polynomial"
    sample_weight: SampleWeight = "linear"
    absence_max: int = ABSENCE_MAX
    """Versions. A device that was in none for so long counts so much more than one in each; 1: all alike."""
    staleness_max: int = 1_000
    """Versions. Generous: work done offline is discounted, not thrown away."""
    update_bytes_max: int = UPDATE_LIMITS.compressed_bytes
    """Payload size on the wire."""
    samples_ratio_max: float = SAMPLES_RATIO_MAX
    """A device's samples count up to so many times what devices usually claim."""
    slot_norm_ratio: float = BUDGET_RATIO
    """Up to so many times what devices usually move the model by in a version, a device's updates are taken whole."""
    weight_max: float | None = None
    """Of one update, where an ordinary one has 1; None: K - 1, what the others of a full version weigh together."""
    norm_ratio_max: float = 10.0
    """‖Δ‖₂ may be at most so many times max(‖x‖₂, 1), x being the model; beyond it training has diverged."""
    shard: int = 0
    shards: int = 1
    device_keys: Callable[[str], Iterable[PublicKey]] | None = None
    """The public keys of the device with this name; None: updates need no signature."""


@dataclass(frozen=True)
class Merge:
    """Take it in; the difference stands in the vector given to `admit`."""

    weight: float
    staleness: int
    norm: float = field(default=0.0, compare=False)
    """‖Δ‖₂ of the decoded difference."""
    scale: float = 1.0
    """What the difference is multiplied by; under 1 where the device moves the model further than others do."""


@dataclass(frozen=True)
class Duplicate:
    """It was merged before: merging it again must change nothing."""


@dataclass(frozen=True)
class Refuse:
    """It is not merged, and the device need not send it again; for `rate` it does, later or to another shard."""

    reason: RefusalReason
    detail: str
    seen_before: bool = False
    """It was refused before and is counted already."""
    is_remembered: bool = True
    """Whether the ledger keeps its sequence. Not of what may have been merged before: that would make the sequences
    after it look new."""


Verdict = Merge | Duplicate | Refuse


class Judged(NamedTuple):
    """One update and what became of it."""

    verdict: Verdict
    update: Update | None
    """None: it could not be read, or is to be sent again as it is (`rate`)."""
    version: int
    """The newest version when it was judged; a merged update goes into the one after it."""
    device: str
    """In its topic."""
    payload: bytes
    """As it came."""

    @property
    def counts_as(self) -> Outcome:
        """For totals: a refusal that is repeated was counted when it was first given, so it is a duplicate."""
        match self.verdict:
            case Merge():
                return "merged"
            case Refuse(seen_before=False):
                return "refused"
        return "duplicate"


@dataclass(frozen=True)
class LastOfDevice:
    """The newest update of one device incarnation in the ledger. A device sends one update at a time, so what is
    older was answered and needs no row of its own.
    """

    sequence: int
    refusal: RefusalReason | None = None


@dataclass(frozen=True)
class Standing:
    """The model line as it stands when an update is judged."""

    task: str
    version: int
    digests: Mapping[int, bytes]
    """Version to digest of its published weights."""
    layout: Layout
    weights_norm: float
    """‖x‖₂ of the master weights."""
    usual_samples: int | None
    """What devices usually claim (`peers.py`); None while fewer than three devices are known."""
    usual_norm: float | None
    """Σ‖Δ‖₂ of what devices usually send in one version; None while fewer than three devices are known."""
    weight_max: float = math.inf
    """Of an update."""


def read_update(topic: ParsedTopic, payload: bytes, standing: Standing, policy: AdmissionPolicy) -> Update | Refuse:
    """The update in `payload`, if it is one and comes from where its topic says."""
    limits = replace(
        UPDATE_LIMITS,
        compressed_bytes=policy.update_bytes_max,
        # No encoding needs more than float32; the rest is names and metrics.
        decompressed_bytes=min(UPDATE_LIMITS.decompressed_bytes, 4 * standing.layout.size + (1 << 16)),
    )
    update = _open(topic.device, payload, limits, policy)
    if isinstance(update, Refuse):
        return update
    if update.device != topic.device:
        return Refuse("malformed", f"the message says device {update.device}, its topic {topic.device}")
    if update.task != topic.task:
        return Refuse("malformed", f"the message says task {update.task}, its topic {topic.task}")
    if topic.parts["shard"] != str(policy.shard):
        return Refuse("malformed", f"it came to shard {topic.parts['shard']}, and this is shard {policy.shard}")
    return update


def _open(device: str, payload: bytes, limits: Limits, policy: AdmissionPolicy) -> Update | Refuse:
    try:
        message = unwrap(payload, Update, limits=limits)
        if policy.device_keys is not None:
            # By the topic's name, and before the body is read: whoever has no key of this device can neither use up its
            # sequences nor have a refusal remembered for it.
            verified_signers(message, policy.device_keys(device))
        return message.open()
    except NotTrusted as error:
        return Refuse("signature", _short(error))
    except LimitExceeded as error:
        return Refuse("too_large", _short(error))
    except DecodeError as error:
        return Refuse("malformed", _short(error))


def admit(
    update: Update,
    standing: Standing,
    policy: AdmissionPolicy,
    last: LastOfDevice | None,
    difference: Vector,
    *,
    absence: int,
    slot_norm: float = 0.0,
) -> Verdict:
    """Judges one update.

    Args:
        update: as read from the wire.
        standing: the model line now.
        policy: what the operator chose.
        last: the newest update of this device and incarnation in the ledger.
        difference: (layout.size,) filled with the decoded difference when the verdict is `Merge`.
        absence: of the device, in versions; 1 if it had a part in the newest one, or never in any.
        slot_norm: Σ‖Δ‖₂ of what the device has in the next version already.
    """
    if last is not None and update.sequence <= last.sequence:
        if update.sequence == last.sequence and last.refusal is not None:
            return Refuse(last.refusal, "it was refused before", seen_before=True)
        return Duplicate()
    refusal = _check_shard(update, policy) or _check_base(update, standing, policy)
    if refusal is not None:
        return refusal
    try:
        decode_vector(update.tensors, standing.layout, out=difference)
    except DecodeError as error:
        return Refuse("malformed", _short(error))
    budget = budget_of(standing.usual_norm, standing.weights_norm, ratio=policy.slot_norm_ratio)
    norm = _checked_norm(difference, standing, policy, budget)
    if isinstance(norm, Refuse):
        return norm
    staleness = standing.version - update.base_version
    weight = weight_of(
        update.samples,
        staleness,
        absence,
        usual_samples=standing.usual_samples,
        decay=policy.decay,
        sample_weight=policy.sample_weight,
        samples_ratio_max=policy.samples_ratio_max,
        absence_max=policy.absence_max,
        weight_max=standing.weight_max,
    )
    return Merge(weight, staleness, norm, scale_of(norm, slot_norm, budget))


def _check_shard(update: Update, policy: AdmissionPolicy) -> Refuse | None:
    """Updates in flight while --shards was changed, and that were not merged here before that, belong elsewhere."""
    expected = shard_of(update.device, policy.shards)
    if expected == policy.shard:
        return None
    # `rate` because devices of every version then keep the update, and send it to where the newest manifest says.
    return Refuse("rate", f"shard: device {update.device} belongs to shard {expected} of {policy.shards}")


def _check_base(update: Update, standing: Standing, policy: AdmissionPolicy) -> Refuse | None:
    if update.layout_fingerprint != standing.layout.fingerprint:
        return Refuse("layout", "its tensors are not those of the model; device and aggregator have different students")
    staleness = standing.version - update.base_version
    if staleness > policy.staleness_max:
        return Refuse("too_stale", f"staleness {staleness} is over the limit of {policy.staleness_max} versions")
    if standing.digests.get(update.base_version) != update.base_digest:
        return Refuse("unknown_base", f"version {update.base_version} with this digest was not published here")
    return None


def norm_of(vector: Vector) -> float:
    """‖v‖₂; finite exactly when each value is, so that one pass answers both questions."""
    return float(np.sqrt(np.einsum("i,i->", vector, vector, dtype=np.float64)))


def _checked_norm(difference: Vector, standing: Standing, policy: AdmissionPolicy, budget: float) -> float | Refuse:
    norm = norm_of(difference)
    if not np.isfinite(norm):
        return Refuse("not_finite", "it holds NaN or infinity; training diverged on the device")
    allowed = min(policy.norm_ratio_max * max(standing.weights_norm, 1.0), _NORM_MAX)
    if standing.usual_norm is not None:
        allowed = min(allowed, max(_FAR * budget, standing.weights_norm, 1.0))
    if norm > allowed:
        return Refuse("norm", f"its norm {norm:.3g} is over {allowed:.3g}; training diverged on the device")
    return norm


def beyond_memory(update: Update, horizon: int) -> Refuse | None:
    """A refusal, if an update of an incarnation that is not remembered may have been merged and forgotten.

    Args:
        update: of a device that has more incarnations than are remembered.
        horizon: from this version on, everything that was merged is known, and this update is not among it.
    """
    # What is based on the version before the horizon, or a later one, can only have gone into one that is known.
    if update.base_version >= horizon - 1:
        return None
    return Refuse(
        "too_stale",
        f"the aggregator remembers what it merged since version {horizon} and the newest incarnations of each device; "
        f"this update is of an older incarnation and based on version {update.base_version}, so it may have been "
        "merged before; train again from the newest model",
        is_remembered=False,
    )


def receipt_for(verdict: Verdict, *, version: int, update: Update | None, payload: bytes) -> Receipt:
    """What the device is told; an update that could not be read is named by the digest of its bytes."""
    receipt = _outcome(verdict, version)
    if update is None:
        return structs.replace(receipt, payload_digest=hashlib.sha256(payload).digest()[:PAYLOAD_DIGEST_BYTES])
    return structs.replace(receipt, incarnation=update.incarnation, sequence=update.sequence)


def _outcome(verdict: Verdict, version: int) -> Receipt:
    match verdict:
        case Merge(weight, staleness, _, scale):
            detail = "" if scale == 1.0 else f"scaled by {scale:.3g}: larger than what devices usually send"
            return Receipt(outcome="merged", version=version, weight=weight, staleness=staleness, detail=detail)
        case Duplicate():
            return Receipt(outcome="duplicate", version=version)
        case Refuse(reason, detail):
            return Receipt(outcome="refused", version=version, reason=reason, detail=detail)


def _short(error: Exception) -> str:
    return str(error)[:_DETAIL_CHARACTERS_MAX]
