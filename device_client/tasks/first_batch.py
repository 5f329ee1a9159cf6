"""The first batch of a task's data and of its training: what only shows there is a fault of one line, too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from device_client.task import Data, Examples, Task, TaskError, inputs_of, targets_of
from device_client.task.batches import leaves
from device_client.task.batching import first_batch
from device_client.task_checks import ExamplesError, first_line
from device_client.tasks.user_code import place_in_user_code, user_code
from wire_contract.errors import ContractError

_MEANINGS: tuple[tuple[str, str], ...] = (
    (
        "grad can be implicitly created only for scalar outputs",
        "the loss must be one number, the mean over the batch",
    ),
    (
        "does not require grad",
        "the loss does not depend on any trained weight; is there a detach(), item() or no_grad() on its way?",
    ),
    (
        "Expected more than 1 value per channel",
        "BatchNorm needs two examples or more in a batch; use GroupNorm or LayerNorm, or give each device more",
    ),
    (
        "closure",
        "optimisers that compute the loss anew in each step (LBFGS, SAM) cannot be used; take SGD, Adam or the like",
    ),
)
"""A part of torch's message, and what it means for the author of a task."""


def check_first_batch(task: Task, data: Data, call: str) -> None:
    """Reads a first batch of data that is not in memory, and checks it as `Examples` are checked.

    Raises:
        TaskError: it cannot be read, has no examples, or holds inputs or targets that cannot be learned.
    """
    if isinstance(data, Examples):
        return
    where = f"task {task.name}: {call}: the first batch"
    with user_code(where):
        batch = first_batch(data, task.recipe.batch_size)
    for tensor in leaves(inputs_of(batch)):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TaskError(f"{where}: inputs hold NaN or infinite values; fill them or leave these examples out")
    if task.objective.check_targets is not None:
        try:
            task.objective.check_targets(targets_of(batch))
        except ExamplesError as error:
            raise TaskError(f"{where}: {error}") from None


@contextmanager
def trial_step(where: str) -> Iterator[None]:
    """Turns any exception of a trial, in which the user's loss, network and optimiser run, into one line.

    Args:
        where: what is done; it begins the line.
    """
    try:
        yield
    except (TaskError, ContractError, MemoryError):
        raise
    except Exception as error:
        meaning = next((f"; {meaning}" for part, meaning in _MEANINGS if part in str(error)), "")
        raise TaskError(f"{where} failed: {first_line(error)}{meaning}{place_in_user_code(error)}") from error
