"""Examples in memory, what else a task's data may be, and the check that a split is by person."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from device_client.task.array_checks import (
    check_same_shapes,
    check_targets,
    check_tensors,
    input_array,
    int64_array,
    target_array,
)
from device_client.task.batches import Batch, joined, leaves, mapped, size_of
from device_client.task_checks import ExamplesError, SplitError


@runtime_checkable
class MapDataset(Protocol):
    """A map-style `torch.utils.data.Dataset`: single examples, without the batch dimension. Its length may grow."""

    def __getitem__(self, index: int, /) -> Any: ...
    def __len__(self) -> int: ...


class Examples:
    """Examples in memory: inputs, and their labels or targets if there are any."""

    inputs: Any
    """float32 or int64 (example, …); or a tuple or dict of such tensors."""
    targets: Any
    """Labels, int64 (example,), an index into the task's classes; or other targets, (example, …), float32 or int64, or
    a tuple or dict of such tensors. None: the inputs are the targets."""
    persons: npt.NDArray[np.str_] | None
    """The person of each example, (example,); None: not known."""
    sources: npt.NDArray[np.str_] | None
    """What each example was cut from, such as its film or recording, (example,); None: not known."""
    attributes: Mapping[str, npt.NDArray[Any]]
    """What else is known of each example, such as its scanner or the size of its file, by name, each (example,).
    Networks never see it: `check-task --shortcuts` asks how far it predicts the label."""

    def __init__(
        self,
        *,
        inputs: Any,
        labels: Tensor | None = None,
        persons: npt.NDArray[np.str_] | None = None,
        targets: Any = None,
        sources: npt.NDArray[np.str_] | None = None,
        attributes: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """`Examples.of` converts arrays and lists.

        Raises:
            TaskError: a wrong dtype or shape, values that are not finite, both labels and targets, or no examples.
        """
        if labels is not None:
            if targets is not None:
                raise ExamplesError("examples: give labels (class indices) or targets, not both")
            check_tensors(inputs, labels)
        else:
            check_targets(inputs, targets)
        self.inputs, self.persons, self.sources = inputs, persons, sources
        self.attributes = dict(attributes or {})
        self.targets = targets if labels is None else labels
        self._has_labels = labels is not None
        self._check_lengths()

    def _check_lengths(self) -> None:
        size, kind = len(self), "labels" if self._has_labels else "targets"
        for tensor in leaves(self.inputs):
            if len(tensor) != size:
                raise ExamplesError(f"examples: one input has {len(tensor)} examples, another {size}")
        for target in leaves(self.targets):
            if len(target) != size:
                raise ExamplesError(f"examples: {size} inputs for {len(target)} {kind} (or persons)")
        for name, rows in {"persons": self.persons, "sources": self.sources, **self.attributes}.items():
            if rows is not None and np.shape(rows)[:1] != (size,):
                count = len(rows) if np.ndim(rows) else "one"
                raise ExamplesError(f"examples: {size} inputs for {count} {name}")
        if size == 0:
            raise ExamplesError("examples: the data set is empty")

    @classmethod
    def of(
        cls,
        inputs: Any,
        labels: npt.ArrayLike | None = None,
        persons: npt.ArrayLike | None = None,
        *,
        targets: Any = None,
        sources: npt.ArrayLike | None = None,
        attributes: Mapping[str, npt.ArrayLike] | None = None,
    ) -> "Examples":
        """Examples from anything that numpy can convert to arrays, with the right dtypes.

        Args:
            inputs: (example, …), or a tuple or dict of several. Arrays of int32 or int64, such as tokens, stay whole
                numbers; all others become float32.
            labels: (example,), the index of each example's class.
            persons: (example,).
            targets: anything else to learn, (example, …), or a tuple or dict of several; floating-point numbers become
                float32, whole numbers int64.
            sources: (example,), what each was cut from.
            attributes: each (example,), by name.

        Raises:
            TaskError: they are no numbers, not finite, or the labels are not whole numbers from 0.
        """
        return cls(
            inputs=_tensors(inputs, input_array),
            labels=None if labels is None else torch.tensor(int64_array(labels)),
            persons=None if persons is None else np.asarray(persons, dtype=np.str_),
            targets=None if targets is None else _tensors(targets, target_array),
            sources=None if sources is None else np.asarray(sources, dtype=np.str_),
            attributes={name: np.asarray(rows) for name, rows in (attributes or {}).items()},
        )

    @property
    def labels(self) -> Tensor:
        """The class of each example, int64 (example,).

        Raises:
            TaskError: the examples have targets of another kind, or none.
        """
        if not self._has_labels:
            raise ExamplesError("these examples have no class labels; give Examples.of(inputs, labels)")
        labels: Tensor = self.targets
        return labels

    def __len__(self) -> int:
        return size_of(self.inputs)

    def batch(self, chosen: Tensor | slice) -> Batch:
        """The examples with these indices as a batch: (inputs, targets), or the inputs if there are no targets."""
        inputs = mapped(self.inputs, lambda tensor: tensor[chosen])
        return inputs if self.targets is None else (inputs, mapped(self.targets, lambda tensor: tensor[chosen]))

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Examples":
        """The examples selected by a mask (example,)."""
        mask = torch.from_numpy(chosen)
        return self._like(
            mapped(self.inputs, lambda tensor: tensor[mask]),
            mapped(self.targets, lambda tensor: tensor[mask]),
            persons=None if self.persons is None else self.persons[chosen],
            sources=None if self.sources is None else self.sources[chosen],
            attributes={name: rows[chosen] for name, rows in self.attributes.items()},
        )

    def _like(self, inputs: Any, targets: Any, **rows: Any) -> "Examples":
        if self._has_labels:
            return Examples(inputs=inputs, labels=targets, **rows)
        return Examples(inputs=inputs, targets=targets, **rows)


Data = Any
"""Examples in memory; a map-style `Dataset`, batched and shuffled by the training loop; an `IterableDataset`, batched
in its own order; or a `DataLoader` or other iterable of batches, used as it is."""


def _tensors(arrays: Any, convert: Callable[[Any], npt.NDArray[Any]]) -> Any:
    """Tensors in the same structure of tuples and dicts; a list is one array."""
    if isinstance(arrays, tuple):
        return tuple(_tensors(array, convert) for array in arrays)
    if isinstance(arrays, Mapping):
        return {name: _tensors(array, convert) for name, array in arrays.items()}
    return torch.tensor(convert(arrays))


def is_map_dataset(data: object) -> TypeGuard[MapDataset]:
    """Whether the data gives single examples by index."""
    return isinstance(data, MapDataset) and not isinstance(data, Examples) and not is_iterable_dataset(data)


def is_iterable_dataset(data: object) -> TypeGuard[Iterable[Any]]:
    """Whether the data is a `torch.utils.data.IterableDataset`, which yields single examples."""
    # By name, so that torch.utils.data is only imported by those who use it.
    return hasattr(data, "yields_examples") or any(base.__name__ == "IterableDataset" for base in type(data).__mro__)


def persons_of(data: Data) -> list[str]:
    """The person of each example, in order; empty: not known. A `Dataset` may have an attribute `persons`."""
    persons = getattr(data, "persons", None)
    return [] if persons is None else [str(person) for person in persons]


def example_count(data: Data) -> int | None:
    """The number of examples, read anew at each call; None: it is only known after a pass over them."""
    return len(data) if isinstance(data, Examples) or is_map_dataset(data) else None


class _Rows:
    """Examples in memory as single examples."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self.persons, self.sources = examples.persons, examples.sources

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int, /) -> Batch:
        return mapped(self._examples.batch(slice(index, index + 1)), lambda tensor: tensor[0])


class _Chained:
    """Several map-style data sets, one after the other."""

    def __init__(self, parts: Sequence[MapDataset]) -> None:
        self._parts = parts
        self.persons = _joined_names([getattr(part, "persons", None) for part in parts])
        self.sources = _joined_names([getattr(part, "sources", None) for part in parts])

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __getitem__(self, index: int, /) -> Any:
        for part in self._parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)


def pooled(parts: "Sequence[Data]") -> Any:
    """The data of several devices as one data set, in the given order: `Examples`, or a data set where one part is.

    Raises:
        TaskError: there are no parts, their inputs differ in shape, or one is a loader of batches.
    """
    if not parts:
        raise ExamplesError("there are no parts to pool")
    if not all(isinstance(part, Examples) for part in parts):
        whole = [_Rows(part) if isinstance(part, Examples) else part for part in parts]
        if not all(is_map_dataset(part) for part in whole):
            raise ExamplesError("only Examples and map-style data sets can be pooled, not loaders of batches")
        return _Chained(whole)
    check_same_shapes({f"part {number}": shape_of(part) for number, part in enumerate(parts)})
    names = [name for name in parts[0].attributes if all(name in part.attributes for part in parts)]
    return parts[0]._like(  # noqa: SLF001 — of the same class
        joined([part.inputs for part in parts]),
        None if parts[0].targets is None else joined([part.targets for part in parts]),
        persons=_joined_names([part.persons for part in parts]),
        sources=_joined_names([part.sources for part in parts]),
        attributes={name: np.concatenate([part.attributes[name] for part in parts]) for name in names},
    )


def _joined_names(parts: Sequence[npt.NDArray[np.str_] | None]) -> npt.NDArray[np.str_] | None:
    """The names of all parts, in order; None where one part does not know them."""
    known = [np.asarray(part, dtype=np.str_) for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def shape_of(examples: Examples) -> tuple[Any, ...]:
    """The shape of one example's input (…); of several inputs, a tuple of their shapes."""
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in leaves(examples.inputs))
    return shapes[0] if isinstance(examples.inputs, Tensor) else shapes


def check_split(sides: Mapping[str, npt.NDArray[np.str_]]) -> None:
    """Checks that no person is on two sides of a split.

    Raises:
        SplitError: some person is; the message names the sides and the persons.
    """
    for one, other in combinations(sides, 2):
        both = sorted(set(sides[one].tolist()) & set(sides[other].tolist()))
        if both:
            raise SplitError(f"person {', '.join(both)} is in both the {one} and the {other} data; split by person")
