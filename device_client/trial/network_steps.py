"""Steps of a trial that make the networks and train the student by one batch."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from device_client.learning.asyncfedkd import train_student
from device_client.learning.evaluation import evaluate
from device_client.learning.fedkd import projection_between, train_mutually
from device_client.learning.fixed_buffers import fixed_buffers
from device_client.learning.losses import task_loss_of
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seeded
from device_client.learning.training_loop import TrainingResult, normalises_batches
from device_client.task import Batch, Data, Examples, TaskError
from device_client.task.batches import leaves, mapped, placement, size_of
from device_client.task.batching import first_batch
from device_client.task.examples import example_count
from device_client.tasks.checking import check_network, check_trainable
from device_client.tasks.first_batch import trial_step
from device_client.tasks.trial import check_learning, check_measuring
from device_client.trial.trial import SEED, Trial
from wire_contract.layout import Vector
from wire_contract.limits import UPDATE_LIMITS

EXTRA_STATE = "_extra_state"
"""End of the name under which torch keeps what a module's `get_extra_state` returns."""
_NAMES_MAX = 3
"""Weights listed in one line."""
HELD_OUT_MAX = 256
"""Held-out examples that a trial evaluates."""


class Few:
    """The first examples of some data, as an iterable of one batch."""

    def __init__(self, data: Data, count: int) -> None:
        self._batch = first_batch(data, count)

    def __iter__(self) -> Iterator[Batch]:
        """One batch."""
        return iter((self._batch,))


def make_student(trial: Trial) -> str:
    """Makes the student twice under one seed, and counts its numbers."""
    task = trial.task
    one, other = _made(trial), _made(trial)
    trial.student, trial.layout = one, layout_of(one, task.recipe.statistics)
    where = f"task {task.name}: student()"
    if layout_of(other, task.recipe.statistics) != trial.layout:
        raise TaskError(f"{where} makes another network each time: names or shapes of its weights differ")
    buffers = dict(other.named_buffers())
    random = [name for name, buffer in one.named_buffers() if not _equal(buffer, buffers[name])]
    if random:
        raise TaskError(
            f"{where}: buffer {random[0]} differs between two constructions under one seed, so every program would "
            "have another; draw it with torch's random numbers, or from a generator with a fixed seed"
        )
    trial.initial = vector_of(one, trial.layout)
    if not np.isfinite(trial.initial).all():
        names = [name for name, view in trial.layout.views(trial.initial).items() if not np.isfinite(view).all()]
        raise TaskError(f"{where}: {names[0]} holds NaN or infinite values, which are never published")
    if not np.array_equal(trial.initial, vector_of(other, trial.layout)):
        trial.note(
            "its weights differ between two constructions under one seed, so --seed of initial-model has no effect; "
            "they are drawn with other random numbers than torch's"
        )
    extra = [name for name, state in one.state_dict().items() if name.endswith(EXTRA_STATE) and _holds(state)]
    if extra:
        trial.note(
            f"{_listed(extra)} (get_extra_state) is not sent: devices, evaluator and export use that of the constructor"
        )
    one.to(trial.accelerator)
    size = trial.layout.size
    if size > UPDATE_LIMITS.elements:
        raise TaskError(
            f"{where}: it has {size:,} numbers, and a message holds {UPDATE_LIMITS.elements:,}; make it smaller, and "
            "let the teacher be large"
        )
    return f"{size:,} numbers in {len(trial.layout.tensors)} tensors, {_bytes(4 * size)} as float32"


def make_teacher(trial: Trial) -> str:
    """Makes the teacher, or reads it, and passes two examples through it."""
    task = trial.task
    if task.teacher is None:
        if trial.read_teacher is not None:
            raise TaskError(f"task {task.name} has no teacher; leave out --teacher")
        return "none: the student learns from the targets alone"
    if trial.read_teacher is not None:
        teacher = trial.read_teacher(task)
    else:
        with seeded(SEED):
            teacher = task.teacher()
    teacher.to(trial.accelerator)
    if task.recipe.method == "fedkd":
        check_trainable(teacher, f"task {task.name}: teacher")
    else:
        if task.objective.distillation is None and task.recipe.alpha > 0:
            raise TaskError(f"task {task.name} has a teacher, but its objective has no distillation; give it one")
        teacher.eval().requires_grad_(False)
    check_network(task, teacher, trial.data[trial.first_device], "teacher")
    trial.teacher = teacher
    size = layout_of(teacher).size
    if size <= trial.layout.size:
        trial.note(f"it is not larger than the student ({size:,} numbers)")
    if trial.read_teacher is None:
        return f"{size:,} numbers, fresh weights; --teacher FILE checks a trained one"
    return f"{size:,} numbers, {_quality(trial, teacher)}"


def _quality(trial: Trial, teacher: nn.Module) -> str:
    """The main metric of a trained teacher; a note if it is no better than chance."""
    task, few = trial.task, Few(trial.held_out, HELD_OUT_MAX)
    main, better = task.objective.main, task.objective.higher_is_better
    with trial_step(f"task {task.name}: measuring the teacher"):
        reached = evaluate(teacher, few, task)[main]
        with seeded(SEED):
            assert task.teacher is not None
            fresh = task.teacher().to(trial.accelerator)
        chance = evaluate(fresh, few, task)[main]
    if task.objective.kind == "classification" and main == "accuracy":
        chance = 1 / len(task.labels)
    if reached <= chance if better else reached >= chance:
        trial.note(
            f"its {main} on held-out examples is {reached:.3g}, no better than {chance:.3g} by chance: the student "
            "would learn its errors"
        )
    return f"{main} {reached:.3g} on held-out examples"


def pass_data(trial: Trial) -> str:
    """Passes two examples, and two held-out ones, through augmentation, student, teacher, loss and metrics."""
    task, data = trial.task, trial.data[trial.first_device]
    check_learning(task, student=trial.student, teacher=trial.teacher, data=data)
    check_measuring(task, trial.student, trial.held_out)
    _check_alike(trial)
    batch = placement(trial.student)(first_batch(data, 2))
    trial.student.eval()
    with torch.no_grad():
        outputs = task.objective.forward(trial.student, batch)
    shapes = ", ".join(" x ".join(map(str, tensor.shape)) for tensor in leaves(outputs))
    trial.student.train()
    return f"{size_of(batch)} examples to outputs {shapes}" + (", augmented" if task.recipe.augment else "")


def _check_alike(trial: Trial) -> None:
    """Checks that two constructions with the same weights compute the same, as device and evaluator must.

    A network whose own outputs differ from pass to pass cannot be compared.
    """
    task, other = trial.task, _made(trial).to(trial.accelerator)
    batch = placement(trial.student)(first_batch(trial.data[trial.first_device], 2))
    passes = []
    for network in (trial.student, trial.student, other):
        load_vector(network, trial.layout, trial.initial)
        network.eval()
        with torch.no_grad(), seeded(SEED):
            passes.append(list(leaves(task.objective.forward(network, mapped(batch, Tensor.clone)))))
        network.train()
    first, again, constructed_anew = passes
    if not _same(first, again):
        trial.note("in evaluation mode it returns other outputs for the same inputs each time, so metrics vary")
    elif not _same(first, constructed_anew):
        raise TaskError(
            f"task {task.name}: student() makes networks that compute different outputs with the same weights, so "
            "every program would have another; register what it draws at random as a buffer, and draw it with torch's "
            "random numbers or from a generator with a fixed seed"
        )


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def differentiate(trial: Trial) -> str:
    """The loss of a batch in training mode, and its gradients; once more for the smallest batch of any device."""
    task, data = trial.task, trial.data[trial.first_device]
    batch = placement(trial.student)(first_batch(data, task.recipe.batch_size))
    loss = _loss(trial, batch, f"task {task.name}: the loss of a batch of {size_of(batch)}")
    parameters = {name: one for name, one in trial.student.named_parameters() if one.requires_grad}
    idle = [name for name, one in parameters.items() if one.grad is None]
    gradients = {name: one.grad.to_dense() for name, one in parameters.items() if one.grad is not None}
    wrong = [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]
    if wrong:
        raise TaskError(f"task {task.name}: the gradient of {_listed(wrong)} is not finite in the first batch")
    if len(idle) == len(parameters):
        raise TaskError(f"task {task.name}: no weight of the student gets a gradient from the loss")
    if idle:
        trial.note(f"{_listed(idle)} {'gets' if len(idle) == 1 else 'get'} no gradient, so nothing is learned there")
    smallest = _smallest_batch(trial)
    if smallest is not None:
        device, few = smallest
        _loss(trial, few, f"task {task.name}: the loss of {device}'s last batch, of {size_of(few)}")
    trial.student.zero_grad()
    return f"loss {loss:.4g} for {size_of(batch)} examples"


def _loss(trial: Trial, batch: Batch, where: str) -> float:
    task = trial.task
    trial.student.train()
    with trial_step(where), torch.random.fork_rng(devices=[]):
        outputs = task.objective.forward(trial.student, batch)
        loss: object = task_loss_of(task.objective, task.recipe)(outputs, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TaskError(f"{where} is {what}; it must be a tensor of one number, the mean over the batch")
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TaskError(
                f"{where} is {value}; look for a logarithm or a division of 0, or inputs that are too large"
            )
        trial.student.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
    return value


def _smallest_batch(trial: Trial) -> tuple[str, Batch] | None:
    """The smallest last batch of a device's epoch, of examples in memory."""
    size = trial.task.recipe.batch_size
    joins = normalises_batches(trial.student)
    found: tuple[int, str] | None = None
    for device, data in trial.data.items():
        count = example_count(data) if isinstance(data, Examples) else None
        left = 0 if count is None else count % size
        if left == 0 or (left == 1 and joins and count is not None and count > 1):
            continue
        found = min(found or (left, device), (left, device))
    if found is None:
        return None
    left, device = found
    return device, placement(trial.student)(first_batch(trial.data[device], left))


def train(trial: Trial) -> str:
    """One step of the recipe's method on a batch, as `run` does it: teacher, augmentation, optimiser, metrics."""
    task = trial.task
    load_vector(trial.student, trial.layout, trial.initial)
    before = {name: buffer.copy() for name, buffer in fixed_buffers(trial.student).items()}
    with trial_step(f"task {task.name}: training a batch of {trial.first_device}"):
        result = one_step(trial, trial.student, trial.data[trial.first_device])
    if not math.isfinite(result.metrics.get("loss", math.nan)):
        raise TaskError(
            f"task {task.name}: the loss is {result.metrics.get('loss')} in training, with the teacher's part"
        )
    trained = vector_of(trial.student, trial.layout)
    if not np.isfinite(trained).all():
        raise TaskError(f"task {task.name}: {_cause(trial, trained)}")
    changed = [
        name for name, buffer in fixed_buffers(trial.student).items() if not np.array_equal(buffer, before[name])
    ]
    if changed:
        trial.note(
            f"training changes {_listed(changed)}, which {'is' if len(changed) == 1 else 'are'} not sent: each device "
            "keeps its own values, and evaluator and export use those of the constructor; make a buffer that outputs "
            "depend on a persistent one of floating-point numbers"
        )
    if np.array_equal(trained, trial.initial):
        trial.note("one step changes no weight; is the learning rate 0?")
    change = float(np.linalg.norm(trained - trial.initial) / (np.linalg.norm(trial.initial) or 1.0))
    return f"{task.recipe.method}, one step changes the weights by {change:.1%}"


def _cause(trial: Trial, trained: Vector) -> str:
    """What is not finite after a step, and what to do."""
    kinds = {spec.name: spec.kind for spec in trial.layout.tensors}
    names = [name for name, view in trial.layout.views(trained).items() if not np.isfinite(view).all()]
    if all(kinds[name] != "weight" for name in names):
        return (
            f"statistics of a normalisation layer ({_listed(names)}) are not finite after one step, because a square "
            "of its inputs is over the largest float32; scale the inputs"
        )
    return f"weights ({_listed(names)}) are not finite after one step; is the learning rate too high?"


def one_step(trial: Trial, student: nn.Module, data: Data) -> TrainingResult:
    """Trains one batch."""
    task, batches = trial.task, iter((False,))
    if task.recipe.method == "fedkd":
        assert trial.teacher is not None, "check_trainable was called with it"
        projection = projection_between(student, trial.teacher, data, objective=task.objective, seed=SEED)
        return train_mutually(
            student,
            trial.teacher,
            projection,
            data,
            task.recipe,
            objective=task.objective,
            seed=SEED,
            version=0,
            should_stop=lambda: next(batches, True),
        )
    return train_student(
        student,
        trial.teacher,
        data,
        task.recipe,
        objective=task.objective,
        seed=SEED,
        version=0,
        should_stop=lambda: next(batches, True),
    )


def _made(trial: Trial) -> nn.Module:
    with seeded(SEED):
        return trial.task.student()


def _holds(state: object) -> bool:
    """Whether a module's extra state holds something."""
    return (
        bool(state.numel()) if isinstance(state, Tensor) else state is not None and state not in ({}, (), [], "", b"")
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    return ", ".join(names[:_NAMES_MAX]) + more


def _bytes(count: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
