"""What the numbers of a model line mean: its labels, and the buffers of its student that are not sent.

Weights say nothing of the order of the classes, and two students with the same weights compute different things if a
buffer that stays at home, such as a random permutation, differs. So a line carries a short description of both, from
the initial model's file to the ledger and the manifest, and every program compares it with its own task before it
trains, evaluates or exports. Pure.

Labels travel as names if they fit `LINE_LABEL_BYTES_MAX`, and always as their number and a fingerprint.

Buffers travel as fingerprints. Integers and booleans must agree exactly. Floating-point numbers are computed anew on
every machine, and a sine may differ in its last bit between processors; so they are compared by a sketch: their norm
and three sums with signs that are fixed for all programs. Two draws of a random buffer differ in it by about the norm.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgpack
import msgspec
import numpy as np
import numpy.typing as npt

from wire_contract.layout import FINGERPRINT_BYTES
from wire_contract.limits import LINE_BUFFER_BYTES_MAX, LINE_LABEL_BYTES_MAX, MAP_ITEMS_MAX, TEXT_CHARACTERS_MAX
from wire_contract.program.plain_text import printable

LINE_KEY = "line"
"""Key of the metadata of a model file, with the description as JSON."""
EXACT_BYTES = 4
"""The beginning of a SHA-256: it only detects a mistake."""
SKETCH_NUMBERS = 4
"""Norm and three signed sums: a random buffer passes by accident about once in 10^9."""
SKETCH_TOLERANCE = 1e-3
"""Share of the norm by which two sketches may differ. Far above the last bits of float16 or of a sine, far below two
draws of a random number."""
SHOWN_CHARACTERS_MAX = 160
"""Of a list of labels in a message: about two lines. Longer lists are cut, and the first difference is named."""

Label = Annotated[str, msgspec.Meta(max_length=TEXT_CHARACTERS_MAX)]


class FixedBuffer(msgspec.Struct, frozen=True, array_like=True):
    """Fingerprint of one buffer, or of several together."""

    exact: Annotated[bytes, msgspec.Meta(min_length=EXACT_BYTES, max_length=EXACT_BYTES)]
    """Beginning of a SHA-256 over the shape, and the values of integers or the places of infinities and NaN."""
    sketch: Annotated[tuple[float, ...], msgspec.Meta(max_length=SKETCH_NUMBERS)] = ()
    """Norm and signed sums of floating-point values; empty for integers and booleans."""

    def agrees_with(self, other: "FixedBuffer") -> bool:
        """Whether both are of the same values, up to the rounding of floating-point numbers."""
        if self.exact != other.exact or len(self.sketch) != len(other.sketch):
            return False
        allowed = SKETCH_TOLERANCE * max([abs(one) for one in (*self.sketch[:1], *other.sketch[:1])], default=0.0)
        return all(abs(one - two) <= allowed for one, two in zip(self.sketch, other.sketch, strict=True))


class LineDescription(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What must be the same in every program of a model line."""

    label_count: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = msgspec.field(name="k")
    """Number of labels; 0 if the task has none."""
    label_fingerprint: Annotated[bytes, msgspec.Meta(min_length=FINGERPRINT_BYTES, max_length=FINGERPRINT_BYTES)] = (
        msgspec.field(name="f")
    )
    """First 8 bytes of the SHA-256 of the names, as a msgpack array in the order of the student's outputs."""
    labels: Annotated[tuple[Label, ...], msgspec.Meta(max_length=LINE_LABEL_BYTES_MAX)] = msgspec.field(
        name="n", default=()
    )
    """The names, in the order of the student's outputs; empty if they are too long together."""
    buffers: Annotated[dict[Label, FixedBuffer], msgspec.Meta(max_length=MAP_ITEMS_MAX)] = msgspec.field(
        name="b", default_factory=dict
    )
    """The fixed buffers by name, as many as fit `LINE_BUFFER_BYTES_MAX`."""
    further: FixedBuffer | None = msgspec.field(name="r", default=None)
    """All others together; None: there are none."""


def describe(labels: Sequence[str], buffers: Mapping[str, npt.NDArray[Any]]) -> LineDescription:
    """The description of a line.

    Args:
        labels: in the order of the student's outputs; empty if it has none.
        buffers: what the student's constructor makes and no model contains, by name. Integers, booleans or floats.
    """
    packed = msgpack.packb(list(labels))
    named: dict[str, FixedBuffer] = {}
    further: dict[str, FixedBuffer] = {}
    room = LINE_BUFFER_BYTES_MAX
    for name, values in sorted(buffers.items()):
        fingerprint = _fingerprint(values)
        room -= len(msgpack.packb([name, msgspec.to_builtins(fingerprint, builtin_types=(bytes,))]))
        (named if room >= 0 and len(named) < MAP_ITEMS_MAX else further)[name] = fingerprint
    return LineDescription(
        label_count=len(labels),
        label_fingerprint=hashlib.sha256(packed).digest()[:FINGERPRINT_BYTES],
        labels=tuple(labels) if len(packed) <= LINE_LABEL_BYTES_MAX else (),
        buffers=named,
        further=_together(further) if further else None,
    )


def _fingerprint(values: npt.NDArray[Any]) -> FixedBuffer:
    head = f"{values.shape}".encode()
    if values.dtype.kind in "iub":
        whole = np.ascontiguousarray(values.astype("<i8"))
        return FixedBuffer(_hash(head + whole.tobytes()))
    numbers = values.astype(np.float64).ravel()
    is_finite = np.isfinite(numbers)
    kinds = np.where(is_finite, 0, np.where(np.isnan(numbers), 1, np.where(numbers > 0, 2, 3))).astype(np.uint8)
    numbers = np.where(is_finite, numbers, 0.0)
    sums = [float(numbers @ _signs(numbers.size, number)) for number in range(1, SKETCH_NUMBERS)]
    return FixedBuffer(_hash(head + kinds.tobytes()), (float(np.linalg.norm(numbers)), *sums))


def _signs(count: int, salt: int) -> npt.NDArray[np.float64]:
    """Signs ±1 (count,), the same on every machine: the highest bit of SplitMix64."""
    with np.errstate(over="ignore"):
        mixed = (np.arange(count, dtype=np.uint64) + np.uint64(salt << 32)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.where(mixed >> np.uint64(63), 1.0, -1.0)


def _together(buffers: Mapping[str, FixedBuffer]) -> FixedBuffer:
    """One fingerprint of several; signed sums add up, norms by their squares."""
    exact = _hash(b"".join(name.encode() + b"\0" + one.exact for name, one in buffers.items()))
    sketches = [one.sketch for one in buffers.values() if one.sketch]
    if not sketches:
        return FixedBuffer(exact)
    norm = math.hypot(*(norm for norm, *_ in sketches))
    return FixedBuffer(exact, (norm, *(sum(sums) for sums in list(zip(*sketches, strict=True))[1:])))


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:EXACT_BYTES]


# Comparing


def other_labels(
    own: LineDescription, line: LineDescription, *, mine: str, noun: str = "labels", place: str = "the line"
) -> str | None:
    """How a program's labels differ from those of the line, in one sentence; None: they are the same.

    Args:
        own: of the program's task.
        line: of the line.
        mine: whose `own` is, such as "this device's".
        noun: what the labels are, such as "classes".
        place: where `line` stands, such as "the line".
    """
    if (own.label_count, own.label_fingerprint) == (line.label_count, line.label_fingerprint):
        return None
    told = f"{mine} {noun} are {_shown(own)}; {place}'s are {_shown(line)}"
    if not (own.labels and line.labels):
        return told if own.label_count != line.label_count else f"{told}; their fingerprints differ"
    if sorted(own.labels) == sorted(line.labels):
        told += ", the same names in another order"
    pairs = zip(own.labels, line.labels, strict=False)
    first = next(((at, *pair) for at, pair in enumerate(pairs) if pair[0] != pair[1]), None)
    if first is not None and "…" in told:
        at, here, there = first
        told += f"; the first difference is number {at}: {printable(here)!r} here, {printable(there)!r} in {place}"
    return told


def other_buffer(
    own: LineDescription, line: LineDescription, *, place: str = "in the line", mine: str = "here"
) -> str | None:
    """Which fixed buffer of a student differs from the line's, in one phrase; None: none does.

    Args:
        own: of the program's task.
        line: of the line.
        place: where `line` stands.
        mine: where `own` stands.
    """
    differ = f"other values {mine} than {place}"
    for name in sorted(set(own.buffers) | set(line.buffers)):
        one, other = own.buffers.get(name), line.buffers.get(name)
        if one is None or other is None:
            return f"buffer {printable(name)} exists {place if one is None else mine} only"
        if not one.agrees_with(other):
            return f"buffer {printable(name)} has {differ}"
    if own.further is None and line.further is None:
        return None
    if own.further is not None and line.further is not None and own.further.agrees_with(line.further):
        return None
    return f"the buffers after {printable(max(own.buffers, default=''))} have {differ}"


def labels_shown(labels: Sequence[str], *, count: int | None) -> str:
    """The labels of a line in one short text.

    Args:
        labels: their names; empty if they are too long together.
        count: their number; None: the line has no description.
    """
    if not count:
        return "none" if count == 0 else "not known: the line began with an older version"
    if not labels:
        return f"{count} names, too long to be listed"
    text = printable(", ".join(labels))
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…, {count} in all"


def _shown(line: LineDescription) -> str:
    text = labels_shown(line.labels, count=line.label_count)
    return f"({text})" if line.labels else text
