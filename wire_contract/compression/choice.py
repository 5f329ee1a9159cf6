"""How a sender compresses the tensors of a message. A reader needs none of this: what arrives describes itself.

"float32", …         every tensor in that encoding
CompressionTarget    a byte budget, or an error bound: each tensor in what suits it best (`rate_control.py`)
LowRankEnergy        FedKD's dynamic low-rank compression, as published (`low_rank.py`)
TopK                 only the elements of largest magnitude (`top_k.py`)

Running statistics are encoded apart from the weights (`statistics.py`), and take at most half of a byte budget.
"""

from dataclasses import dataclass, replace

from wire_contract.compression.low_rank import energy_at, low_rank_by_energy
from wire_contract.compression.rate_control import CompressionTarget, encode_to_target, encoded_bytes
from wire_contract.compression.statistics import encode_statistics
from wire_contract.compression.top_k import top_k
from wire_contract.encoding import EncodedTensor, EncodingName, check_encodable, encode_vector
from wire_contract.layout import Layout, Vector


@dataclass(frozen=True, kw_only=True)
class LowRankEnergy:
    """Low-rank factors that keep a share of each matrix's energy, which rises linearly with the version.

    Wu et al. 2022, "Communication-efficient federated learning via knowledge distillation", equation 9 and "Dynamic
    gradient approximation".
    """

    versions: float
    """The version from which on the share is `end`."""
    start: float = 0.95
    """T_start of the paper's experiments."""
    end: float = 0.98
    """T_end of the paper's experiments."""


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Only the elements of largest magnitude in all tensors together."""

    share: float
    """Share of all elements, 0 to 1."""


EncodingChoice = EncodingName | CompressionTarget | LowRankEnergy | TopK


def encode_as(
    choice: EncodingChoice, vector: Vector, layout: Layout, *, version: int, as_values: bool = False
) -> tuple[EncodedTensor, ...]:
    """Encodes `vector` (layout.size,) as `choice` says.

    Args:
        choice: see the top of this module.
        vector: a difference or weights.
        layout: of the vector.
        version: of the base; the only measure of training progress that a device has.
        as_values: whether running statistics in `vector` are values, as in an update, and not differences.

    Raises:
        EncodeError: a value is not finite, or does not fit the encoding or the budget.
    """
    if layout.has_statistics:
        check_encodable(vector, layout)
        bytes_max = choice.bytes_max if isinstance(choice, CompressionTarget) else None
        statistics = encode_statistics(
            vector,
            layout,
            bytes_max=None if bytes_max is None else bytes_max // 2,
            exact=choice == "float32",
            as_values=as_values,
            version=version,
        )
        if isinstance(choice, CompressionTarget) and bytes_max is not None:
            choice = replace(choice, bytes_max=bytes_max - encoded_bytes(statistics))
        return _encode(choice, vector[: layout.weights_size], layout.of_weights, version) + statistics
    return _encode(choice, vector, layout, version)


def _encode(choice: EncodingChoice, vector: Vector, layout: Layout, version: int) -> tuple[EncodedTensor, ...]:
    match choice:
        case CompressionTarget():
            return encode_to_target(vector, layout, choice)
        case LowRankEnergy():
            progress = min(1.0, version / choice.versions)
            return low_rank_by_energy(vector, layout, energy_at(progress, start=choice.start, end=choice.end))
        case TopK():
            return top_k(vector, layout, choice.share)
        case _:
            return encode_vector(vector, layout, choice)
