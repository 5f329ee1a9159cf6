"""Attacks of a hostile device in the virtual world: what it sends, and when.

It knows what any member knows: the newest model, its own data, the merging rules. It strikes right after a version was
published, so that its updates are fresh and arrive first.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wire_contract.codec import encode
from wire_contract.encoding import encode_vector
from wire_contract.layout import Vector
from wire_contract.message_fields import INCARNATION_BYTES
from wire_contract.messages import Update
from wire_contract.publication.manifest import PublishedVersion

SAMPLES_CLAIMED_MAX = 2**53
"""The largest number of samples that a message can claim."""
_FLOOD = 200
"""Messages of one attacker in a version. Chosen: far more than all honest devices of a built-in task send in one, as
only the number may matter here."""

Learned = Callable[[], Vector]
"""The honest update from the newest version: difference, (layout.size,)."""


@dataclass(frozen=True)
class ForgedUpdate:
    """One forged update."""

    difference: Vector
    samples: int | None = None
    """Claimed samples; None: the attacker's default."""


Attack = Callable[[PublishedVersion, Learned], Sequence[ForgedUpdate]]


def _direction(model: PublishedVersion, norm: float) -> Vector:
    """A random direction, the same for every version."""
    random = np.random.default_rng(0).standard_normal(model.layout.size)
    return (norm * random / np.linalg.norm(random)).astype(np.float32)


def _bias(model: PublishedVersion, size: float) -> Vector:
    """Pushes all predictions towards the first class: the last tensor is the bias of the outputs."""
    difference = np.zeros(model.layout.size, dtype=np.float32)
    start, _ = model.layout.bounds[-1]
    difference[start] = size
    return difference


def _norm(model: PublishedVersion) -> float:
    return float(np.linalg.norm(model.weights))


ATTACKS: Mapping[str, Attack] = {
    "huge": lambda model, _: [ForgedUpdate(_direction(model, 9.9 * _norm(model)))],
    "large": lambda model, _: [ForgedUpdate(_direction(model, 0.99 * _norm(model)))],
    "huge bias": lambda model, _: [ForgedUpdate(_bias(model, 9.9 * _norm(model)))],
    "large bias": lambda model, _: [ForgedUpdate(_bias(model, 0.99 * _norm(model)))],
    "flip": lambda _, learned: [ForgedUpdate(-10 * learned())],
    "flood": lambda _, learned: [ForgedUpdate(-learned())] * _FLOOD,
    "flood of biases": lambda model, _: [ForgedUpdate(_bias(model, 1.0))] * _FLOOD,
    "heavy among light": lambda _, learned: [
        ForgedUpdate(-10 * learned(), SAMPLES_CLAIMED_MAX),
        *[ForgedUpdate(-0.001 * learned(), 1)] * _FLOOD,
    ],
    "nothing": lambda model, _: [ForgedUpdate(_direction(model, 1e-9))],
}
"""By name. `huge` stays just under the norm that is refused as diverged, and `large` just under the norm of the model.
`flip` is meant for several successive versions, and `nothing` to make honest updates look large."""


class Attacker:
    """Is honest in some versions, attacks in others, and is silent in the rest."""

    def __init__(
        self,
        device: str,
        forge: Attack,
        learn: Callable[[PublishedVersion], Vector],
        *,
        task: str,
        samples: int,
        honest: Collection[int],
        strikes: Collection[int],
    ) -> None:
        """An attacker with a fixed plan.

        Args:
            device: its name.
            forge: makes the updates of one strike.
            learn: honest training from a version; returns the difference, (layout.size,).
            task: name of the task.
            samples: number of samples that its updates claim.
            honest: versions on which it trains honestly.
            strikes: versions after whose publication it strikes.
        """
        self.device = device
        self._forge = forge
        self._learn = learn
        self._task = task
        self._samples = samples
        self._honest = honest
        self._strikes = strikes
        self._sequence = 0

    def takes_part(self, version: int) -> bool:
        """Whether it trains honestly on this version."""
        return version in self._honest

    def payloads(self, newest: PublishedVersion) -> Sequence[bytes]:
        """The updates of one strike."""
        if newest.version not in self._strikes:
            return ()
        return [self._payload(forged, newest) for forged in self._forge(newest, lambda: self._learn(newest))]

    def _payload(self, forged: ForgedUpdate, model: PublishedVersion) -> bytes:
        self._sequence += 1
        update = Update(
            task=self._task,
            device=self.device,
            incarnation=b"hostile".ljust(INCARNATION_BYTES, b"\0"),
            sequence=self._sequence,
            base_version=model.version,
            base_digest=model.digest,
            layout_fingerprint=model.layout.fingerprint,
            samples=self._samples if forged.samples is None else forged.samples,
            local_steps=1,
            train_seconds=1.0,
            tensors=encode_vector(forged.difference, model.layout, "float32"),
        )
        return encode(update)
