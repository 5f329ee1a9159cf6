"""What to train next, and what is told of it. Decides only.

Each update is the difference between the local student at the end and at the start of one round, and names the base
that its line started from. A round starts from the newest model; while there is no newer one, a device may go on with
its own student for some further rounds, so that hours without a broker are not wasted. The updates of one base are
then increments: their sum leads from the base to the local student, up to what the encoding has left for later
(`feedback.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from device_client.trainer import Trained
from device_client.uplink.error_feedback import Untold, carried, clipped, with_untold
from wire_contract.compression.choice import EncodingChoice, encode_as
from wire_contract.encoding import decode_vector
from wire_contract.errors import EncodeError
from wire_contract.layout import Vector
from wire_contract.messages import Identity, Update
from wire_contract.publication.manifest import Published
from wire_contract.signatures.signing import SigningKey, sign


@dataclass(frozen=True, eq=False)
class Line:
    """The local student after its last round."""

    base_version: int
    base_digest: bytes
    rounds: int
    """Rounds made on this base."""
    weights: Vector
    """(layout.size,)"""
    finished_at: float
    """Unix seconds."""
    residual: Vector | None = None
    """What its updates have not told yet, (layout.size,); None: nothing."""


@dataclass(frozen=True, eq=False)
class Round:
    """One training to do."""

    base: Published
    number: int
    """From 1, on this base."""
    start: Vector
    """(layout.size,)"""
    residual: Vector | None = None
    """What earlier updates have not told, and this one should, (layout.size,)."""
    retold: tuple[int, ...] = ()
    """Sequences of the updates whose content is in the residual again, because it was not taken in."""


def next_round(
    base: Published | None, line: Line | None, *, now: float, rounds_max: int, retrain_after_seconds: float
) -> Round | None:
    """The round to make at `now` (Unix seconds), or None while there is none."""
    if base is None:
        return None
    if line is None:
        return Round(base, 1, base.weights)
    if (line.base_version, line.base_digest) != (base.version, base.digest):
        size = base.weights.size
        residual = carried(line.residual, from_version=line.base_version, to_version=base.version, size=size)
        return Round(base, 1, base.weights, residual)
    if line.rounds >= rounds_max or line.weights.shape != base.weights.shape:
        return None
    # A clock that was set back must not hold a device up for ever.
    if 0 <= now - line.finished_at < retrain_after_seconds:
        return None
    return Round(base, line.rounds + 1, line.weights, line.residual)


def telling_again(todo: Round, untold: Sequence[Untold]) -> Round:
    """The round, with the content of updates that were not taken in."""
    if not untold:
        return todo
    base = todo.base
    residual = with_untold(todo.residual, untold, to_version=base.version, layout=base.layout)
    return replace(todo, residual=residual, retold=tuple(one.sequence for one in untold))


def dropped(todo: Round, *, now: float) -> Line:
    """After a round that gave nothing: it counts, and the next one starts from the base again."""
    return Line(todo.base.version, todo.base.digest, todo.number, todo.base.weights, now, todo.residual)


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
) -> tuple[bytes, Line]:
    """The encoded update of a round, signed where there is a key, and the local student to go on from, with what the
    update left untold.

    Raises:
        EncodeError: the difference is not finite, or does not fit the encoding.
    """
    layout = todo.base.layout
    with np.errstate(over="ignore", invalid="ignore"):
        difference = trained.weights - todo.start
        wanted = difference if todo.residual is None else difference + clipped(todo.residual, difference)
    tensors = encode_as(encoding, wanted, layout, version=todo.base.version)
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
    told = decode_vector(tensors, layout)
    if not np.isfinite(told).all():
        raise EncodeError("the difference cannot be told in finite numbers; training diverged")
    line = Line(todo.base.version, todo.base.digest, todo.number, trained.weights, now, wanted - told)
    return sign(update, [] if signing_key is None else [signing_key]), line
