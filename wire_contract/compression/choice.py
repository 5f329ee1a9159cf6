"""How the tensors of a message are to be encoded, as a setting of its sender. The reader needs none of this.

An encoding's name: every tensor in that encoding. `Plan`: a byte budget or an error, and each tensor gets what suits it
(`planner.py`). `Energy`: FedKD's dynamic low-rank compression, as published. `TopShare`: the largest elements only.
"""

from dataclasses import dataclass

from wire_contract.compression.planner import Plan, encode_planned, energy_at, low_rank_by_energy, top_share
from wire_contract.encoding import EncodedTensor, EncodingName, encode_vector
from wire_contract.layout import Layout, Vector


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Low-rank factors that keep a share of each matrix's energy, rising linearly with the version.

    Wu et al. 2022, "Communication-efficient federated learning via knowledge distillation", equation 9 and "Dynamic
    gradient approximation".
    """

    versions: float
    """From this version on the share is `end`."""
    start: float = 0.95
    end: float = 0.98


@dataclass(frozen=True, kw_only=True)
class TopShare:
    """The elements of largest magnitude in all tensors together."""

    share: float
    """0 to 1, of all elements."""


EncodingChoice = EncodingName | Plan | Energy | TopShare


def encode_as(choice: EncodingChoice, vector: Vector, layout: Layout, *, version: int) -> tuple[EncodedTensor, ...]:
    """The tensors of `vector` (layout.size,) as the sender wants them.

    Args:
        choice: see the module.
        vector: a difference or weights.
        layout: of the vector.
        version: of the base, which is all that a device knows of the progress of training.

    Raises:
        EncodeError: a value is not finite, or does not fit the encoding or the budget.
    """
    match choice:
        case Plan():
            return encode_planned(vector, layout, choice)
        case Energy():
            progress = min(1.0, version / choice.versions)
            return low_rank_by_energy(vector, layout, energy_at(progress, start=choice.start, end=choice.end))
        case TopShare():
            return top_share(vector, layout, choice.share)
        case _:
            return encode_vector(vector, layout, choice)
