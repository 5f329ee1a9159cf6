"""Admission: decides whether an update is merged, a duplicate, or refused, and why. No clock, no disk, no link.

Cheap checks come first. An update that the ledger already knows gets the same answer as before, so an update that
arrives twice (redelivered by the broker, or resent by a device without a receipt) counts once, whatever the answer was.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from aggregator.merging.peers import BUDGET_RATIO, budget_of, scale_of, statistics_budget_of
from aggregator.merging.staleness import ABSENCE_MAX, SAMPLES_RATIO_MAX, Decay, SampleWeight, weight_of
from aggregator.merging.statistics import are_sane, distance
from wire_contract.encoding import decode_vector
from wire_contract.errors import DecodeError, LimitExceeded
from wire_contract.layout import Layout, Vector
from wire_contract.limits import UPDATE_LIMITS, Limits
from wire_contract.message_fields import Outcome, RefusalReason
from wire_contract.messages import Update
from wire_contract.signatures.envelope import unwrap
from wire_contract.signatures.signing import NotTrusted, PublicKey, verified_signers
from wire_contract.topics import ParsedTopic, shard_of

DeviceKey = tuple[str, bytes]
"""Device and incarnation."""

INCARNATIONS_KEPT = 16
"""Incarnations (reinstallations) remembered per device. Older ones are looked up in the journal, as far back as it
goes. The number bounds the memory that one device can take."""

_DETAIL_CHARACTERS_MAX = 300
"""Holds the codec's reason (200) and the text before it; bounds what each refusal adds to the ledger and its
receipt."""
_NORM_MAX = 1e15
"""Upper bound of ‖Δ‖₂, whatever the model's norm. Multiplied by the largest possible weight (an absence of 1,000
versions and the most samples that count) and summed over any number of updates, it stays finite in float32, so no
accepted update can make the model unpublishable."""
_FAR = 30.0
"""Multiple of a slot's budget. An update whose norm exceeds it, and also exceeds the model's own norm, is refused
instead of scaled down, because its direction carries no information. A backlog is a sum of ordinary updates and stays
below it; so do devices that all start to learn faster, as long as one round does not replace the model. While too few
devices are known for a median, only the model's norm is compared (`norm_ratio_max`). 30 is chosen, not measured: a
smaller one would refuse honest backlogs, a larger one would merge more updates without meaning."""


@dataclass(frozen=True, kw_only=True)
class AdmissionPolicy:
    """The operator's settings of admission."""

    decay: Decay = "polynomial"
    sample_weight: SampleWeight = "linear"
    absence_max: int = ABSENCE_MAX
    """Largest factor for absence, in versions; 1 turns the correction off."""
    staleness_max: int = 1_000
    """Versions. Generous, because offline work is discounted by its weight rather than refused."""
    update_bytes_max: int = UPDATE_LIMITS.compressed_bytes
    """Largest payload on the wire."""
    samples_ratio_max: float = SAMPLES_RATIO_MAX
    """Samples count up to this multiple of the median over devices."""
    slot_norm_ratio: float = BUDGET_RATIO
    """Budget of a slot, as a multiple of the median slot norm; beyond it a device's updates are scaled down."""
    weight_max: float | None = None
    """Largest weight of one update; an ordinary one has 1. None: K - 1, the weight of all others in a full version."""
    norm_ratio_max: float = 10.0
    """Limit of ‖Δ‖₂ as a multiple of max(‖x‖₂, 1), with x the model; beyond it, training has diverged. 10 is chosen,
    not measured: far above a first update (`peers.FIRST_NORM_SHARE`), so only divergence exceeds it."""
    shard: int = 0
    shards: int = 1
    device_keys: Callable[[str], Iterable[PublicKey]] | None = None
    """Returns the public keys of the device with this name; None: updates need no signature."""


@dataclass(frozen=True)
class Merge:
    """Merge it; the decoded difference is in the vector passed to `admit`."""

    weight: float
    staleness: int
    norm: float = field(default=0.0, compare=False)
    """‖Δ‖₂ of the decoded difference."""
    scale: float = 1.0
    """Factor on the difference of weights; below 1 if the device would move the model further than others do."""
    statistics_norm: float | None = field(default=None, compare=False)
    """Distance of its running statistics from the model's; None: the layout has none."""
    statistics_scale: float = 1.0
    """Factor on their difference from the model's."""


@dataclass(frozen=True)
class Duplicate:
    """It was merged before, and is not merged again."""


@dataclass(frozen=True)
class Refuse:
    """It is not merged, and the device drops it. The exception is `rate`: the device sends it again later."""

    reason: RefusalReason
    detail: str
    seen_before: bool = False
    """It was refused, and counted, before."""
    is_remembered: bool = True
    """Whether the ledger stores its sequence number. False if the update may have been merged before: storing it would
    make later sequence numbers of that incarnation look new."""


Verdict = Merge | Duplicate | Refuse


class Judged(NamedTuple):
    """One update and its verdict."""

    verdict: Verdict
    update: Update | None
    """None: it could not be decoded, or the device is to resend the same bytes (`rate`)."""
    version: int
    """The newest version when it was judged; a merged update goes into the next one."""
    device: str
    """Name in the topic."""
    payload: bytes
    """As received."""

    @property
    def counts_as(self) -> Outcome:
        """Outcome for totals; a repeated refusal was counted the first time, so it counts as a duplicate."""
        match self.verdict:
            case Merge():
                return "merged"
            case Refuse(seen_before=False):
                return "refused"
        return "duplicate"


@dataclass(frozen=True)
class LastOfDevice:
    """The newest answered update of one device incarnation. A device sends one update at a time, so all older ones
    were answered too, and one row per incarnation is enough.
    """

    sequence: int
    refusal: RefusalReason | None = None


@dataclass(frozen=True)
class Standing:
    """State of the model line against which updates are judged."""

    task: str
    version: int
    digests: Mapping[int, bytes]
    """Digest of the published weights, by version."""
    layout: Layout
    weights_norm: float
    """‖x‖₂ of the master weights, without statistics."""
    usual_samples: int | None
    """Median of the samples that devices claim (`merging/peers.py`); None while fewer than three devices are known."""
    usual_norm: float | None
    """Median over devices of Σ‖Δ‖₂ in one version; None while fewer than three devices are known."""
    weight_max: float = math.inf
    """Largest weight of an update."""
    is_closed: bool = False
    """The line has ended (`close-line`)."""
    statistics: Vector | None = None
    """Running statistics of the master model, (2 · channel,); None: the layout has none."""
    usual_statistics_norm: float | None = None
    """Median over devices of the distance of their statistics; None while fewer than three devices are known."""


def read_update(topic: ParsedTopic, payload: bytes, standing: Standing, policy: AdmissionPolicy) -> Update | Refuse:
    """Decodes `payload`, checks its signature, and checks that device, task and shard agree with the topic."""
    limits = replace(
        UPDATE_LIMITS,
        compressed_bytes=policy.update_bytes_max,
        # No encoding is larger than float32; 64 KiB more are for names and metrics.
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
            # Checked with the keys of the topic's device, and before the body is decoded: without one of its keys,
            # nobody can use up its sequence numbers or have a refusal stored under its name.
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
    """Judges one decoded update.

    Args:
        update: as decoded.
        standing: current state of the model line.
        policy: the operator's settings.
        last: newest answered update of this device and incarnation.
        difference: (layout.size,) filled with the decoded difference and statistics if the verdict is `Merge`.
        absence: versions since the device last contributed; 1 if to the newest one, or never.
        slot_norm: Σ‖Δ‖₂ of the device's updates already in the buffer.
    """
    if last is not None and update.sequence <= last.sequence:
        if update.sequence == last.sequence and last.refusal is not None:
            return Refuse(last.refusal, "it was refused before", seen_before=True)
        return Duplicate()
    refusal = _check_shard(update, policy) or _check_open(standing) or _check_base(update, standing, policy)
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
    apart, statistics_scale = _clipped_statistics(difference[standing.layout.weights_size :], standing, policy)
    return Merge(weight, staleness, norm, scale_of(norm, slot_norm, budget), apart, statistics_scale)


def _check_shard(update: Update, policy: AdmissionPolicy) -> Refuse | None:
    """Refuses updates that were in flight while --shards was changed and now belong to another shard."""
    expected = shard_of(update.device, policy.shards)
    if expected == policy.shard:
        return None
    # `rate`, because devices of every release then keep the update and resend it to the shard of the newest manifest.
    return Refuse("rate", f"shard: device {update.device} belongs to shard {expected} of {policy.shards}")


def _check_open(standing: Standing) -> Refuse | None:
    """Refuses every update of a closed line."""
    if not standing.is_closed:
        return None
    # `too_stale`, because devices of the first release cannot read a receipt with a reason that they do not know.
    return Refuse(
        "too_stale",
        f"closed: line {standing.task} has ended; install the program with the new student, which the next line needs",
    )


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
    """‖v‖₂ in float64; finite if and only if all values are, so one pass answers both questions."""
    return float(np.sqrt(np.einsum("i,i->", vector, vector, dtype=np.float64)))


def _checked_norm(difference: Vector, standing: Standing, policy: AdmissionPolicy, budget: float) -> float | Refuse:
    size = standing.layout.weights_size
    weights, statistics = difference[:size], difference[size:]
    norm = norm_of(weights)
    if not np.isfinite(norm) or not np.isfinite(statistics).all():
        name = standing.layout.not_finite(difference)
        detail = f"tensor {name!r} holds NaN or infinity; training diverged on the device"
        return Refuse("not_finite", detail[:_DETAIL_CHARACTERS_MAX])
    if statistics.size and not are_sane(statistics):
        return Refuse("norm", "its running statistics are beyond 1e15; training diverged on the device")
    allowed = min(policy.norm_ratio_max * max(standing.weights_norm, 1.0), _NORM_MAX)
    if standing.usual_norm is not None:
        allowed = min(allowed, max(_FAR * budget, standing.weights_norm, 1.0))
    if norm > allowed:
        return Refuse("norm", f"its norm {norm:.3g} is over {allowed:.3g}; training diverged on the device")
    return norm


def _clipped_statistics(measured: Vector, standing: Standing, policy: AdmissionPolicy) -> tuple[float | None, float]:
    """Distance of measured statistics (2 · channel,) from the model's, and their scale."""
    if standing.statistics is None:
        return None, 1.0
    apart = distance(measured, standing.statistics)
    budget = statistics_budget_of(standing.usual_statistics_norm, ratio=policy.slot_norm_ratio)
    return apart, scale_of(apart, 0.0, budget)


def beyond_memory(update: Update, horizon: int) -> Refuse | None:
    """Refuses an update of a forgotten incarnation if it may have been merged into a version that the journal dropped.

    Args:
        update: of a device with more incarnations than are remembered.
        horizon: the journal is complete from this version on, and does not contain this update.
    """
    # Based on version horizon - 1 or later, it can only have been merged into a version that the journal still has.
    if update.base_version >= horizon - 1:
        return None
    return Refuse(
        "too_stale",
        f"the aggregator remembers what it merged since version {horizon} and the newest incarnations of each device; "
        f"this update is of an older incarnation and based on version {update.base_version}, so it may have been "
        "merged before; train again from the newest model",
        is_remembered=False,
    )


def _short(error: Exception) -> str:
    return str(error)[:_DETAIL_CHARACTERS_MAX]
