"""Batches of damaged payloads, the same ones for the same seed wherever and in whatever order they run."""

import traceback
import warnings
from dataclasses import dataclass
from random import Random

from tests.fuzz.corpus import Seed, base, seeds
from tests.fuzz.mutations import mutate
from tests.fuzz.target import Seen, check
from wire_contract.codec import SCHEMAS

BATCH_PAYLOADS = 2_000
MEMORY_EVERY = 50
"""Of so many payloads one is measured: tracing is ten times slower."""
OTHER_KIND_SHARE = 0.03


@dataclass(frozen=True)
class Finding:
    """A payload that did what none may do, and all that is needed to do it again."""

    seed: int
    batch: int
    kind: str
    payload: bytes
    what: str

    def __str__(self) -> str:
        return (
            f"FOUND with seed {self.seed}, batch {self.batch}: read as {self.kind}\n{self.what}\n"
            f"payload ({len(self.payload)} bytes): {self.payload.hex()}"
        )


def run_batch(batch: int, *, seed: int, payloads: int = BATCH_PAYLOADS) -> Seen | Finding:
    """So many damaged payloads, the same ones for the same `seed` and `batch`."""
    random = Random(f"{seed}/{batch}")
    sound, start, seen = seeds(), base(), Seen()
    others = [one.payload for one in sound]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(payloads):
            chosen: Seed = random.choice(sound)
            payload = mutate(chosen.payload, others, random)
            kind = random.choice(tuple(SCHEMAS)) if random.random() < OTHER_KIND_SHARE else chosen.kind
            try:
                check(payload, kind, start, seen, measure_memory=number % MEMORY_EVERY == 0)
            except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
                return Finding(seed, batch, kind.__name__, payload, traceback.format_exc(limit=-6))
    return seen
