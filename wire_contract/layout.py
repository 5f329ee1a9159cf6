"""Weights are one contiguous float32 vector, and a layout that says which part of it is which tensor.

So merging is one pass over memory instead of a loop over a dictionary, and the digest of a version is the SHA-256 of
the vector's little-endian bytes.
"""

import hashlib
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from wire_contract.errors import LayoutError
from wire_contract.limits import DIMENSIONS_MAX, TEXT_CHARACTERS_MAX

Vector = npt.NDArray[np.float32]
"""Shape (layout.size,), C-contiguous."""

TensorKind = Literal["weight", "mean", "second_moment"]
"""What a tensor holds: weights, or running statistics of activations, in a form that can be averaged
(`encoding/statistics.py`)."""

DIGEST_BYTES = 32
"""A whole SHA-256: it identifies the weights, also towards an attacker."""
FINGERPRINT_BYTES = 8
"""The beginning of a SHA-256: it only detects a mistaken layout, and is in every update."""


class TensorSpec(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Name and shape of one tensor. The dtype of decoded weights is always float32.

    A field that is added later comes last, has a default, and is written only if it differs from it. So models that do
    not use it keep their fingerprint, and older programs can read them.
    """

    name: Annotated[str, msgspec.Meta(max_length=TEXT_CHARACTERS_MAX)]
    shape: Annotated[tuple[int, ...], msgspec.Meta(max_length=DIMENSIONS_MAX)]
    dtype: Literal["float32"] = "float32"
    kind: TensorKind = "weight"

    @property
    def size(self) -> int:
        """Number of elements; a scalar (shape `()`) has one."""
        return math.prod(self.shape)

    @property
    def as_written(self) -> tuple[Any, ...]:
        """As an array, the form in a model message and in the fingerprint."""
        written = msgspec.structs.astuple(self)
        later = msgspec.structs.fields(self)[_FIRST_FIELDS:]
        while len(written) > _FIRST_FIELDS and written[-1] == later[len(written) - _FIRST_FIELDS - 1].default:
            written = written[:-1]
        return written


_STATISTICS: tuple[TensorKind, ...] = ("mean", "second_moment")

_FIRST_FIELDS = 3
"""Name, shape and dtype are always written."""


class Layout(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """The ordered tensors of one model line: first the weights, then all running means, then their second moments.

    The second moments have the shapes of the means, in the same order. So the vector has three contiguous parts, and
    element i of the means belongs to element i of the second moments.

    Raises:
        LayoutError: a name occurs twice, a dimension is below one, or the tensors are not in this order.
    """

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.tensors]
        if len(set(names)) != len(names):
            raise LayoutError("layout: a tensor name stands twice")
        for spec in self.tensors:
            if any(dimension < 1 for dimension in spec.shape):
                raise LayoutError(f"layout: tensor {spec.name!r} has an empty shape {spec.shape}")
        kinds = [spec.kind for spec in self.tensors]
        means, moments = ([spec.shape for spec in self.tensors if spec.kind == kind] for kind in _STATISTICS)
        if kinds != sorted(kinds, key=("weight", *_STATISTICS).index) or means != moments:
            raise LayoutError("layout: running means and their second moments have to follow the weights, in pairs")

    @cached_property
    def size(self) -> int:
        """Elements of all tensors together."""
        return sum(self.sizes)

    @cached_property
    def weights_size(self) -> int:
        """Elements of all weights together; what follows them in the vector are running statistics."""
        return sum(spec.size for spec in self.tensors if spec.kind == "weight")

    @cached_property
    def of_weights(self) -> "Layout":
        """The layout without running statistics."""
        return Layout(tuple(spec for spec in self.tensors if spec.kind == "weight")) if self.has_statistics else self

    @cached_property
    def channels(self) -> int:
        """Elements of all running means together."""
        return (self.size - self.weights_size) // 2

    @property
    def has_statistics(self) -> bool:
        """Whether there are running statistics."""
        return self.weights_size < self.size

    @cached_property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Names of each running mean and its second moment."""
        means, moments = ([spec.name for spec in self.tensors if spec.kind == kind] for kind in _STATISTICS)
        return tuple(zip(means, moments, strict=True))

    def moments(self, vector: Vector) -> tuple[Vector, Vector]:
        """Running means and second moments in `vector`, both (channel,), as views that share its memory."""
        middle = self.weights_size + self.channels
        return vector[self.weights_size : middle], vector[middle:]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each tensor."""
        return tuple(spec.size for spec in self.tensors)

    @cached_property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """Start and stop of each tensor in the vector."""
        stops = np.cumsum(self.sizes, dtype=np.int64).tolist()
        return tuple(zip([0, *stops[:-1]], stops, strict=True)) if stops else ()

    @cached_property
    def fingerprint(self) -> bytes:
        """Eight bytes that identify the layout; updates carry them instead of tensor names."""
        written = [[spec.as_written for spec in self.tensors]]
        return hashlib.sha256(msgspec.msgpack.encode(written)).digest()[:FINGERPRINT_BYTES]

    def views(self, vector: Vector) -> dict[str, Vector]:
        """The tensors in `vector` by name, as arrays of their shapes that share its memory."""
        self.check(vector)
        return {
            spec.name: vector[start:stop].reshape(spec.shape)
            for spec, (start, stop) in zip(self.tensors, self.bounds, strict=True)
        }

    def not_finite(self, vector: Vector) -> str | None:
        """Name of the first tensor in `vector` (layout.size,) with NaN or infinity; None if there is none."""
        return next((name for name, view in self.views(vector).items() if not np.isfinite(view).all()), None)

    def flatten(self, tensors: Mapping[str, npt.ArrayLike]) -> Vector:
        """Copies tensors, given by name, into a new vector (layout.size,).

        Raises:
            LayoutError: a tensor is missing, unknown, or has another shape.
        """
        expected = {spec.name for spec in self.tensors}
        if expected != set(tensors):
            missing, unknown = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
            raise LayoutError(f"layout: missing tensors {missing}, unknown tensors {unknown}")
        vector = np.empty(self.size, dtype=np.float32)
        for name, view in self.views(vector).items():
            with np.errstate(over="ignore"):  # float64 beyond float32 is infinity, for the encoder to refuse
                values = np.asarray(tensors[name], dtype=np.float32)
            if values.shape != view.shape:
                raise LayoutError(f"layout: tensor {name!r} has shape {values.shape}, not {view.shape}")
            view[...] = values
        return vector

    def check(self, vector: Vector) -> None:
        """Raises LayoutError unless `vector` is a float32 vector of this layout's size."""
        if vector.shape != (self.size,) or vector.dtype != np.float32:
            raise LayoutError(f"layout: a {vector.dtype} vector {vector.shape} is not float32 ({self.size},)")


def digest(vector: Vector) -> bytes:
    """SHA-256 of the little-endian float32 bytes: the identity of a version's weights."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f4").data).digest()


def different_tensors(here: Mapping[str, tuple[int, ...]], there: Mapping[str, tuple[int, ...]], *, place: str) -> str:
    """How two sets of tensors differ, for people; at most three of each kind are named.

    Args:
        here: shapes by name, of the task's network.
        there: shapes by name, of the other side.
        place: where the other side is, such as "the model".
    """
    told = [
        f"{name} is {there[name]} in {place} and {here[name]} here"
        for name in here
        if name in there and here[name] != there[name]
    ]
    parts = [_first(told)] if told else []
    for only, where in (
        ([name for name in there if name not in here], place),
        ([n for n in here if n not in there], "here"),
    ):
        if only:
            parts.append(f"only {'' if where == 'here' else 'in '}{where}: {_first(only)}")
    return "; ".join(parts) or "the order or the kind of its tensors"


def _first(told: list[str]) -> str:
    """The first three, and how many more there are."""
    more = len(told) - _NAMED_MAX
    return ", ".join(told[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


_NAMED_MAX = 3
