"""What to train next, and the update that results from it. Decides only.

An update is the difference between the local student at the end and at the start of one round, and names the base that
the student started from. A round starts from the newest model. While there is no newer one, a device may train a few
further rounds on its own student, so that hours without a broker are not wasted. The updates of one base are then
increments: their sum leads from the base to the local student, except for what the encoding has left for later
(`error_feedback`).

Running statistics (of BatchNorm) are not sent as differences but as they are: they are measurements, not steps. So
each update replaces the device's previous ones, and nothing has to be sent later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from device_client.trainer import Trained
from device_client.uplink.error_feedback import UnmergedUpdate, add_unmerged, carried, clipped
from wire_contract.compression.choice import EncodingChoice, encode_as
from wire_contract.encoding import decode_vector
from wire_contract.errors import EncodeError
from wire_contract.layout import Vector
from wire_contract.messages import Identity, Update
from wire_contract.publication.manifest import PublishedVersion
from wire_contract.signatures.signing import SigningKey, sign


@dataclass(frozen=True, eq=False)
class LocalStudent:
    """The device's own student after its last round."""

    base_version: int
    base_digest: bytes
    rounds: int
    """Rounds trained on this base."""
    weights: Vector
    """(layout.size,)"""
    finished_at: float
    """Unix seconds."""
    residual: Vector | None = None
    """What its updates have left unsent so far, (layout.size,); None: nothing."""


@dataclass(frozen=True, eq=False)
class Round:
    """One round of training to be done."""

    base: PublishedVersion
    number: int
    """From 1, on this base."""
    start: Vector
    """Weights to start from, (layout.size,)."""
    residual: Vector | None = None
    """What earlier updates left unsent and this one should contain, (layout.size,)."""
    carried_over: tuple[int, ...] = ()
    """Sequences of the unmerged updates whose content is in the residual."""


def next_round(
    base: PublishedVersion | None,
    student: LocalStudent | None,
    *,
    now: float,
    rounds_max: int,
    retrain_after_seconds: float,
) -> Round | None:
    """The round to train at `now` (Unix seconds); None: no round is due."""
    if base is None:
        return None
    if student is None:
        return Round(base, 1, base.weights)
    if (student.base_version, student.base_digest) != (base.version, base.digest):
        size = base.weights.size
        residual = carried(student.residual, from_version=student.base_version, to_version=base.version, size=size)
        return Round(base, 1, base.weights, residual)
    if student.rounds >= rounds_max or student.weights.shape != base.weights.shape:
        return None
    # A time before `finished_at` means that the clock was set back; that must not block training forever.
    if 0 <= now - student.finished_at < retrain_after_seconds:
        return None
    return Round(base, student.rounds + 1, student.weights, student.residual)


def with_unmerged(todo: Round, unmerged: Sequence[UnmergedUpdate]) -> Round:
    """The round, with the content of unmerged updates added to its residual."""
    if not unmerged:
        return todo
    base = todo.base
    residual = add_unmerged(todo.residual, unmerged, to_version=base.version, layout=base.layout)
    return replace(todo, residual=residual, carried_over=tuple(one.sequence for one in unmerged))


def after_failed_round(todo: Round, *, now: float) -> LocalStudent:
    """The local student after a round without a result: the round counts, and the next one starts from the base."""
    return LocalStudent(todo.base.version, todo.base.digest, todo.number, todo.base.weights, now, todo.residual)


def make_update(
    todo: Round,
    trained: Trained,
    *,
    task: str,
    identity: Identity,
    encoding: EncodingChoice,
    train_seconds: float,
    now: float,
    signing_key: SigningKey | None = None,
) -> tuple[bytes, LocalStudent]:
    """The encoded update of a round, signed if there is a key, and the local student with the new residual.

    Raises:
        EncodeError: the difference is not finite, or cannot be encoded.
    """
    layout = todo.base.layout
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = trained.weights - todo.start
        if todo.residual is not None:
            wanted += clipped(todo.residual, wanted, layout.weights_size)
        wanted[layout.weights_size :] = trained.weights[layout.weights_size :]
    tensors = encode_as(encoding, wanted, layout, version=todo.base.version, as_values=True)
    update = Update(
        task=task,
        device=identity.device,
        incarnation=identity.incarnation,
        sequence=identity.sequence,
        base_version=todo.base.version,
        base_digest=todo.base.digest,
        layout_fingerprint=layout.fingerprint,
        samples=trained.samples,
        local_steps=trained.steps,
        train_seconds=train_seconds,
        metrics=trained.metrics,
        tensors=tensors,
    )
    sent = decode_vector(tensors, layout)
    if not np.isfinite(sent).all():
        raise EncodeError("the encoded difference is not finite; training diverged")
    residual = wanted - sent
    residual[layout.weights_size :] = 0.0
    student = LocalStudent(todo.base.version, todo.base.digest, todo.number, trained.weights, now, residual)
    return sign(update, [] if signing_key is None else [signing_key]), student
