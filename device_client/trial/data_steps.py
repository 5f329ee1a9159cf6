"""Steps of a trial that load a task's data. `tasks/checking.py` checks each part and compares it with those before."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from device_client.task import Data, Examples, Task, TaskError, inputs_of, targets_of
from device_client.task.batches import leaves, mapped
from device_client.task.batching import first_batch
from device_client.task.examples import example_count
from device_client.tasks.first_batch import check_first_batch
from device_client.trial.trial import Trial

SECONDS_MAX = 20.0
"""After this time, no further device's data is loaded: a federation may have thousands. Chosen."""
FAR_DEVIATIONS = 100.0
"""From this ratio of mean to standard deviation on, inputs are noted. Chosen: a tenth of where the lower bound of
BatchNorm's merged variances (`wire_contract/encoding/statistics.py`) begins to change what is learned."""
_ROWS = 256
"""Rows that are looked at for that."""
_NAMES_MAX = 5
"""Names listed in one line."""


def load_devices(trial: Trial) -> str:
    """Loads the data of each device, and looks for what no device has."""
    task, devices = trial.task, trial.devices or trial.task.devices
    if not devices:
        raise TaskError(f"task {task.name} lists no devices, so give the name of one: --device NAME")
    ends = trial.monotonic() + SECONDS_MAX
    counts: dict[str, int | None] = {}
    seen: Counter[int] = Counter()
    for device in devices:
        if trial.data and trial.monotonic() > ends:
            trial.note(f"only {len(trial.data)} of {len(devices)} devices were loaded, within {SECONDS_MAX:g} s")
            break
        data = task.examples_of(device)
        check_first_batch(task, data, f"device_data({device!r})")
        trial.data[device], counts[device] = data, example_count(data)
        seen += _classes(task, data)
    _note_far(trial)
    single = [device for device, count in counts.items() if count == 1]
    if single:
        trial.note(f"{_listed(single)}: one example only, from which little is learned")
    _note_missing(trial, seen, f"none of the {len(trial.data)} devices that were loaded")
    known = [count for count in counts.values() if count is not None]
    each = f", {_span(known)} examples each" if known else ", examples not counted"
    return f"{_count(len(trial.data), 'device')}{each}; {_shown(trial.data[trial.first_device], task)}"


def _note_far(trial: Trial) -> None:
    """Notes inputs of the first device whose channels lie far from zero, compared with their spread."""
    data = trial.data[trial.first_device]
    batch = first_batch(data, _ROWS if isinstance(data, Examples) else trial.task.recipe.batch_size)
    for tensor in leaves(inputs_of(batch)):
        if not tensor.is_floating_point() or tensor.ndim == 0:
            continue
        values = tensor.double()
        channels = values.transpose(0, 1).flatten(1) if tensor.ndim > 1 else values[None]
        spread, mean = channels.std(dim=1, correction=0), channels.mean(dim=1).abs()
        far = torch.where(spread > 0, mean / spread, 0.0)
        if far.numel() and float(far.max()) > FAR_DEVIATIONS:
            trial.note(
                f"inputs lie far from zero: the mean of channel {int(far.argmax())} is {float(far.max()):,.0f} "
                "standard deviations away from it, and from about 1,000 on BatchNorm silently learns wrongly; "
                "standardise the inputs (subtract their mean, divide by their standard deviation)"
            )
            return


def load_held_out(trial: Trial) -> str:
    """Loads the held-out data."""
    trial.held_out = data = trial.task.held_out()
    check_first_batch(trial.task, data, "held_out()")
    _note_missing(trial, _classes(trial.task, data), "the held-out data")
    sides = {**trial.data, "held-out": data}
    unknown = [side for side, part in sides.items() if getattr(part, "persons", None) is None]
    if unknown:
        trial.note(
            "persons are not given (Examples.of(…, persons=…)), so it cannot be checked that none is on two sides"
        )
    count = example_count(data)
    return "examples not counted" if count is None else f"{count} examples"


def load_teacher_data(trial: Trial) -> str:
    """Loads the data for pre-training the teacher."""
    task = trial.task
    if task.teacher_data is None:
        if task.teacher is not None and trial.read_teacher is None and task.recipe.method != "fedkd":
            trial.note("the task has a teacher and no teacher_data: `run` needs a teacher file that was made elsewhere")
        return "none"
    data = task.teacher_data()
    trial.teacher_data = data
    check_first_batch(task, data, "teacher_data()")
    _note_missing(trial, _classes(task, data), "the teacher's data")
    count = example_count(data)
    return "examples not counted" if count is None else f"{count} examples"


def _classes(task: Task, data: Data) -> Counter[int]:
    """How often each class occurs; empty where labels are not class indices in memory."""
    if task.objective.kind != "classification" or not isinstance(data, Examples):
        return Counter()
    return Counter(data.labels.tolist())


def _note_missing(trial: Trial, seen: Counter[int], where: str) -> None:
    missing = [name for index, name in enumerate(trial.task.labels) if index not in seen]
    if seen and missing:
        trial.note(f"{where} has an example of {_listed(missing, last='or')}")


def _shown(data: Data, task: Task) -> str:
    """Shapes of one example."""
    batch = first_batch(data, 1)
    inputs, targets = (
        _shapes(mapped(part, lambda tensor: tensor[0])) for part in (inputs_of(batch), targets_of(batch))
    )
    return f"inputs {inputs}" if task.objective.kind == "classification" else f"inputs {inputs}, targets {targets}"


def _shapes(tree: Any) -> str:
    if isinstance(tree, dict):
        return ", ".join(f"{name} {_shapes(part)}" for name, part in tree.items())
    return ", ".join(_shape(tensor) for tensor in leaves(tree)) or "none"


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _span(counts: Sequence[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _listed(names: Sequence[str], last: str = "and") -> str:
    shown = list(names[:_NAMES_MAX])
    if len(names) > _NAMES_MAX:
        return f"{', '.join(shown)} and {len(names) - _NAMES_MAX} more"
    return f" {last} ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
