"""Calls the user's functions, checks what they return, and puts every fault into one line that says where it is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from device_client.data.leakage import Side, check_sides, overlap, side_of
from device_client.learning.seeding import constructed
from device_client.task import Batch, Data, Examples, Task, TaskError, inputs_of, logits_in
from device_client.task.array_checks import check_same_shapes
from device_client.task.batches import leaves, mapped, placement, size_of
from device_client.task.batching import first_batch
from device_client.task.examples import is_map_dataset, shape_of
from device_client.task_checks import ExamplesError, first_line
from device_client.tasks.guards import guarded
from device_client.tasks.user_code import place_in_user_code, user_code
from wire_contract.errors import LayoutError
from wire_contract.layout import Layout
from wire_contract.limits import DIMENSIONS_MAX, MODEL_LIMITS, TENSORS_MAX, TEXT_CHARACTERS_MAX

_SIDES = ("device", "teacher", "held-out")
"""In the order in which a message names them."""
_EXAMPLES = 2
"""Examples of the trial pass through a network."""


def checked(task: Task) -> Task:
    """The task, with functions that check what the user's return, on each call.

    The data that was loaded in this process is compared: its inputs must have one shape, and no person, source film or
    image may be on two sides. Images are only hashed once there are two sides, and only those of `Examples`, which are
    in memory; `check-task` reads data sets, too.
    """
    loaded = _Loaded(task)
    teacher, teacher_data = task.teacher, task.teacher_data
    return replace(
        task,
        student=lambda: _network_of(task.student, task.name, "student"),
        teacher=None if teacher is None else lambda: _network_of(teacher, task.name, "teacher"),
        device_data=lambda device: loaded.check("device", f"device_data({device!r})", lambda: task.device_data(device)),
        held_out=lambda: loaded.check("held-out", "held_out()", task.held_out),
        teacher_data=None if teacher_data is None else lambda: loaded.check("teacher", "teacher_data()", teacher_data),
    )


@dataclass(frozen=True)
class _Loaded:
    """What was seen of a task's data in this process."""

    task: Task
    shapes: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Of one example, by side."""
    parts: dict[str, tuple[str, Data]] = field(default_factory=dict)
    """The newest data of each call, with its side, that is not in `sides` yet: a device alone needs no hashes."""
    sides: dict[str, Side] = field(default_factory=dict)
    """All devices are one side."""
    calls: set[str] = field(default_factory=set)
    """Whose data is in `sides`."""

    def check(self, side: str, call: str, load: Callable[[], object]) -> Data:
        """The data that `load` returns.

        Raises:
            TaskError: they do not fit the task, or the examples seen before.
        """
        where = f"task {self.task.name}: {call}"
        with user_code(where):
            data: Any = load()
        if isinstance(data, Examples):
            shapes = {**self.shapes, call: shape_of(data)}
            try:
                if self.task.objective.check_targets is not None:
                    self.task.objective.check_targets(data.inputs if data.targets is None else data.targets)
                check_same_shapes(shapes)
            except ExamplesError as error:
                raise TaskError(f"{where}: {error}") from None
            self.shapes.setdefault(call, shapes[call])
        else:
            _check_kind(data, where)
        self.parts[call] = (side, data)
        if len({*self.sides, *(one for one, _data in self.parts.values())}) > 1:
            self._check_split()
        return guarded(data, where)

    def _check_split(self) -> None:
        for call, (side, data) in self.parts.items():
            part = side_of(data, hashes=isinstance(data, Examples))
            if call in self.calls:
                part.rows = 0  # loaded again: what is new in it joins, what it had counts once more
            self.calls.add(call)
            self.sides.setdefault(side, Side()).add(part)
            if any(overlap(name, other, side, part) for name, other in self.sides.items() if name != side):
                check_sides({name: self.sides[name] for name in _SIDES if name in self.sides})
        self.parts.clear()


def _check_kind(data: object, where: str) -> None:
    """Checks that data that are no `Examples` can be a `Dataset` or a `DataLoader`.

    Raises:
        TaskError: they cannot.
    """
    plain = isinstance(data, (tuple, list, dict, str, bytes, Tensor, np.ndarray))
    if plain or not (is_map_dataset(data) or hasattr(data, "__iter__")):
        raise TaskError(
            f"{where} returned {type(data).__name__}, not Examples; end it with return Examples.of(inputs, labels), or "
            "return a torch Dataset or DataLoader"
        )
    if isinstance(data, Iterator):
        raise TaskError(
            f"{where} returned an iterator ({type(data).__name__}), which can be read only once; return an object that "
            "can be read again, such as a DataLoader"
        )
    if is_map_dataset(data) and len(data) == 0:
        raise TaskError(f"{where}: the data set is empty")


def _network_of(make: Callable[[], object], task: str, what: Literal["student", "teacher"]) -> nn.Module:
    where = f"task {task}: {what}"

    def call() -> nn.Module:
        with user_code(f"{where}()"):
            made = make()
        if not isinstance(made, nn.Module):
            raise TaskError(f"{where}() returned {type(made).__name__}, not a torch.nn.Module")
        _check_sizes(made, where)
        return made

    try:
        network = constructed(call, name=f"{task}/{what}")
    except LayoutError as error:
        raise TaskError(f"{where}(): {error}; the sizes of a network must not depend on random numbers") from None
    if what == "student":
        check_trainable(network, where)
    return network


def _check_sizes(network: nn.Module, where: str) -> None:
    parameters = dict(network.named_parameters())
    lazy = [name for name, parameter in parameters.items() if is_lazy(parameter)]
    if lazy:
        raise TaskError(
            f"{where}(): the size of {lazy[0]} is not known (lazy module); give the sizes, or pass one example through "
            "the network before it is returned"
        )
    for name, parameter in parameters.items():
        if parameter.is_complex():
            raise TaskError(
                f"{where}(): parameter {name} is {parameter.dtype}, and only real numbers are sent; keep real and "
                "imaginary part as two parameters"
            )
    for name, tensor in network.state_dict().items():
        floating = isinstance(tensor, Tensor) and tensor.is_floating_point()
        if floating and any(
            stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        ):
            raise TaskError(
                f"{where}(): {name} was made with expand(), so its numbers share memory and cannot be set one by one; "
                "add .clone()"
            )


def check_trainable(network: nn.Module, where: str) -> None:
    """Checks that a network has something to learn.

    Raises:
        TaskError: it has no parameters, or all are frozen.
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        what = "all its parameters are frozen" if list(network.parameters()) else "it has no parameters"
        raise TaskError(f"{where}(): {what}, so nothing can be learned; some must have requires_grad=True")


def check_publishable(task: Task, layout: Layout) -> None:
    """Checks that a student can be published.

    Raises:
        TaskError: it has too many numbers or tensors, or a tensor whose name is too long or that has too many
            dimensions.
    """
    where = f"task {task.name}: student"
    if layout.size > MODEL_LIMITS.elements:
        largest = max(layout.tensors, key=lambda spec: spec.size)
        raise TaskError(
            f"{where} has {layout.size:,} numbers, the most of them ({largest.size:,}) in {largest.name}; up to "
            f"{MODEL_LIMITS.elements:,} can be published. Make it smaller, as every device downloads it; a large "
            "network can be the teacher, which is never sent"
        )
    if len(layout.tensors) > TENSORS_MAX:
        raise TaskError(f"{where} has {len(layout.tensors):,} tensors; up to {TENSORS_MAX:,} can be published")
    for spec in layout.tensors:
        if len(spec.name) > TEXT_CHARACTERS_MAX or len(spec.shape) > DIMENSIONS_MAX:
            raise TaskError(
                f"{where}: tensor {spec.name[:TEXT_CHARACTERS_MAX]} has {len(spec.shape)} dimensions and a name of "
                f"{len(spec.name)} characters; up to {DIMENSIONS_MAX} and {TEXT_CHARACTERS_MAX} can be published"
            )


def check_network(task: Task, network: nn.Module, data: Data, what: str = "student") -> None:
    """Passes two examples through a network, in evaluation mode; changes neither it nor any random numbers.

    Raises:
        TaskError: the network does not accept the inputs, or for a classification returns no logits (batch, class).
    """
    where, training = f"task {task.name}: {what}", network.training
    batch = _trial_batch(task, data, network)
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs: object = task.objective.forward(network, mapped(batch, Tensor.clone))
    except Exception as error:
        hint = ""
        if any(not tensor.is_floating_point() for tensor in leaves(inputs_of(batch))):
            hint = "; arrays of whole numbers are taken for tokens: give measurements as floats"
        raise TaskError(
            f"{where} does not accept inputs of shape {_shapes(inputs_of(batch))}: {first_line(error)}"
            f"{place_in_user_code(error)}{hint}"
        ) from error
    finally:
        network.train(training)
    if task.objective.kind == "classification":
        _check_logits(logits_in(outputs), size_of(batch), len(task.labels), where)


def _trial_batch(task: Task, data: Data, network: nn.Module) -> Batch:
    with user_code(f"task {task.name}: the data"):
        return placement(network)(first_batch(data, _EXAMPLES))


def _shapes(tree: Any) -> Any:
    shapes = [tuple(tensor.shape) for tensor in leaves(tree)]
    return shapes[0] if len(shapes) == 1 else shapes


def _check_logits(logits: object, examples: int, count: int, where: str) -> None:
    if not isinstance(logits, Tensor):
        raise TaskError(f"{where} returned {type(logits).__name__}; its forward must return logits (batch, class)")
    if tuple(logits.shape) != (examples, count):
        raise TaskError(
            f"{where} returned shape {tuple(logits.shape)} for {examples} examples; it must be logits "
            f"{(examples, count)}, because the task has {count} classes"
        )
    if not logits.is_floating_point():
        raise TaskError(f"{where} returned {logits.dtype}; logits must be real floating-point numbers")


def check_augment(task: Task, data: Data) -> None:
    """Augments two examples with a random generator of its own.

    Raises:
        TaskError: the recipe's function fails, or returns something else than as many inputs of the same shape.
    """
    recipe = task.recipe
    if recipe.augment is None and recipe.augment_batch is None:
        return
    with user_code(f"task {task.name}: the data"):
        batch = mapped(first_batch(data, _EXAMPLES), Tensor.clone)
    field = "augment" if recipe.augment is not None else "augment_batch"
    where, generator, inputs = f"task {task.name}: {field}", torch.Generator().manual_seed(0), inputs_of(batch)
    shapes = _shapes(inputs)
    with user_code(where), torch.random.fork_rng(devices=[]):
        if recipe.augment is not None:
            augmented: Any = recipe.augment(inputs, generator)
        else:
            assert recipe.augment_batch is not None
            augmented = inputs_of(recipe.augment_batch(batch, generator))
    if _shapes(augmented) != shapes or type(augmented) is not type(inputs):
        returned = f"shape {_shapes(augmented)}" if isinstance(augmented, Tensor) else type(augmented).__name__
        raise TaskError(f"{where} returned {returned} for inputs {shapes}; it must keep their shape")
