"""Batches out of a task's data, for training and for evaluation."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from device_client.task.batches import Batch, inputs_of, joined, leaves, mapped, size_of, with_inputs
from device_client.task.examples import Data, Examples, is_iterable_dataset, is_map_dataset
from device_client.task.recipe import Recipe
from device_client.task_checks import ExamplesError, first_line

_AUGMENTED_VALUES_MAX = 1 << 18
"""Values (1 MiB) augmented at once, or one batch if that is larger: augmenting small batches alone is mostly
overhead."""
EVALUATION_EXAMPLES_MAX = 512
"""Examples per batch of an evaluation: large enough to keep a CPU busy."""
_EVALUATION_VALUES_MAX = 1 << 20
"""Values of inputs and outputs (4 MiB) per batch of an evaluation, which bounds the memory for activations."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One batch of a training run."""

    batch: Batch
    """As the networks see it: augmented."""
    plain: Callable[[], Batch]
    """Without augmentation, as a frozen teacher sees it."""
    chosen: Tensor | None
    """The indices of the batch among examples in memory, (batch,); None: other data."""


def batch_count(data: Data, batch_size: int) -> int | None:
    """The number of batches in a pass over the data; None: only known after a pass."""
    if isinstance(data, Examples) or is_map_dataset(data):
        return math.ceil(len(data) / batch_size)
    try:
        return None if is_iterable_dataset(data) else len(data)
    except TypeError:  # a generator, or a loader of an iterable data set
        return None


def training_batches(
    data: Data, recipe: Recipe, *, batch_size: int, generator: torch.Generator, join_single: bool
) -> Iterator[Drawn]:
    """One pass over the data, in random order where the data has no order of its own.

    Args:
        data: see `Data`.
        recipe: augmentation.
        batch_size: examples; a `DataLoader` has its own.
        generator: of order and augmentation.
        join_single: whether a last batch of one example joins the one before it, because the network normalises over
            the batch.
    """
    if isinstance(data, Examples):
        yield from _of_examples(data, recipe, batch_size, generator, join_single=join_single)
        return
    if is_map_dataset(data):
        order = torch.randperm(len(data), generator=generator)
        batches: Iterable[Batch] = (
            collated([data[int(index)] for index in block]) for block in _split(order, batch_size, join_single=False)
        )
    else:
        batches = _iterated(data, batch_size)
    for batch in _with_single_joined(batches) if join_single else batches:
        augmented = _augmented(batch, recipe, generator)
        yield Drawn(batch=augmented, plain=lambda batch=batch: batch, chosen=None)  # type: ignore[misc]


def _of_examples(
    examples: Examples, recipe: Recipe, batch_size: int, generator: torch.Generator, *, join_single: bool
) -> Iterator[Drawn]:
    order = torch.randperm(len(examples), generator=generator)
    values = batch_size * sum(tensor[0].numel() for tensor in leaves(examples.inputs))
    for block in _split(order, batch_size * max(1, _AUGMENTED_VALUES_MAX // max(1, values)), join_single=join_single):
        batch = _augmented(examples.batch(block), recipe, generator)
        offset = 0
        for chosen in _split(block, batch_size, join_single=join_single):
            part = slice(offset, offset + len(chosen))
            offset += len(chosen)
            yield Drawn(
                batch=mapped(batch, lambda tensor, part=part: tensor[part]),  # type: ignore[misc]
                plain=lambda chosen=chosen: examples.batch(chosen),  # type: ignore[misc]
                chosen=chosen,
            )


def _split(order: Tensor, size: int, *, join_single: bool) -> list[Tensor]:
    parts = list(torch.split(order, size))
    if join_single and len(parts) > 1 and len(parts[-1]) == 1:
        last = parts.pop()
        parts[-1] = torch.cat([parts[-1], last])
    return parts


def _with_single_joined(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, with a last one of one example joined to the one before it."""
    held: Batch | None = None
    for batch in batches:
        if held is not None and size_of(batch) == 1:
            held = joined([held, batch])
            continue
        if held is not None:
            yield held
        held = batch
    if held is not None:
        yield held


def _augmented(batch: Batch, recipe: Recipe, generator: torch.Generator) -> Batch:
    if recipe.augment_batch is not None:
        return recipe.augment_batch(batch, generator)
    return batch if recipe.augment is None else with_inputs(batch, recipe.augment(inputs_of(batch), generator))


def collated(samples: list[Any]) -> Batch:
    """Single examples as a batch, by torch's own rule.

    Raises:
        ExamplesError: they differ in shape, or hold something that has no place in a batch.
    """
    from torch.utils.data import default_collate  # noqa: PLC0415 — only who has a Dataset pays for it

    try:
        return default_collate(samples)
    except (TypeError, RuntimeError) as error:
        raise ExamplesError(
            f"the examples cannot be put into one batch ({first_line(error)}); each must be tensors, arrays, numbers "
            "or text, or a tuple or dict of these, of the same shapes in all examples"
        ) from error


def _iterated(data: Iterable[Any], batch_size: int) -> Iterator[Batch]:
    if not is_iterable_dataset(data):
        yield from data
        return
    samples: list[Any] = []
    for sample in data:
        samples.append(sample)
        if len(samples) == batch_size:
            yield collated(samples)
            samples = []
    if samples:
        yield collated(samples)


def first_batch(data: Data, examples: int) -> Batch:
    """The first examples of the data without shuffling; from a `DataLoader`, of its first batch.

    Raises:
        ExamplesError: there are none.
    """
    batch = next(evaluation_batches(data, examples), None)
    if batch is None or size_of(batch) == 0:
        raise ExamplesError("the data has no examples")
    if any(tensor.ndim == 0 for tensor in leaves(batch)):
        raise ExamplesError(
            "a batch holds a tensor without dimensions, but the first dimension of each must be the example; is it a "
            "DataLoader with batch_size=None?"
        )
    return mapped(batch, lambda tensor: tensor[:examples])


def evaluation_batches(data: Data, batch_size: int = EVALUATION_EXAMPLES_MAX) -> Iterator[Batch]:
    """One pass over the data, in its own order."""
    if isinstance(data, Examples):
        yield from (data.batch(slice(start, start + batch_size)) for start in range(0, len(data), batch_size))
    elif is_map_dataset(data):
        for start in range(0, len(data), batch_size):
            yield collated([data[index] for index in range(start, min(start + batch_size, len(data)))])
    else:
        yield from _iterated(data, batch_size)


def evaluation_size(batch: Batch, outputs: Any) -> int:
    """How many examples an evaluation may take at once, given a batch and a network's outputs for it."""
    values = sum(tensor.numel() for tree in (batch, outputs) for tensor in leaves(tree)) / max(1, size_of(batch))
    return max(1, min(EVALUATION_EXAMPLES_MAX, int(_EVALUATION_VALUES_MAX / max(1.0, values))))
