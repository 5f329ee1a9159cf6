"""What several commands do first: load the task, open the event log, turn errors that a user can fix into one line."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from device_client.commands.checkpoints import is_own_file, load_checkpoint
from device_client.downlink.line_check import OwnLine
from device_client.downlink.model_trust import ModelTrust, TrustMemory
from device_client.events import EventLog
from device_client.learning.fixed_buffers import description_of
from device_client.learning.parameters import load_vector
from device_client.model_files import ModelFileError, read_model
from device_client.settings import LearningSettings, OnlineSettings
from device_client.task import Task, TaskError
from device_client.tasks.loading import load_task
from device_client.to_onnx.errors import ExportError
from device_client.uplink.outbox_errors import OutboxError
from wire_contract.errors import ContractError, LayoutError, LinkError
from wire_contract.model_roles import Role
from wire_contract.program.blas_threads import limit_blas_threads
from wire_contract.program.clock import SYSTEM_CLOCK
from wire_contract.program.command_settings import UsageError
from wire_contract.signatures.signing import PublicKey
from wire_contract.topics import check_name

S = TypeVar("S", bound=LearningSettings)
R = TypeVar("R")


def user_errors() -> Callable[[Callable[[S], R]], Callable[[S], R]]:
    """Turns every error that a user can fix into a `UsageError` of one line; --debug prints its traceback before.

    A `LinkError` passes through: there is nothing to fix, and the program should be started again. Everything else is a
    bug and keeps its traceback.
    """

    def decorate(command: Callable[[S], R]) -> Callable[[S], R]:
        @wraps(command)
        def carry_out(settings: S) -> R:
            try:
                with _one_line_errors():
                    return command(settings)
            except UsageError:
                if settings.debug:
                    traceback.print_exc()
                raise

        return carry_out

    return decorate


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (UsageError, LinkError):
        raise
    except (TaskError, ModelFileError, ExportError, OutboxError, ContractError) as error:
        raise UsageError(_one_line(str(error))) from error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise UsageError(_one_line(f"{place}{error.strerror or error}")) from error


def _one_line(text: str) -> str:
    return " ".join(text.split())


def loaded_task(settings: LearningSettings) -> Task:
    """The task that the settings name, with the number of threads set."""
    torch.set_num_threads(settings.threads)
    limit_blas_threads(settings.threads)
    task = load_task(settings.task, data=settings.data)
    check_name(task.name, "task")
    return task


def event_log(settings: OnlineSettings) -> EventLog:
    """Events on standard output."""
    return EventLog(sys.stdout, unix=SYSTEM_CLOCK.unix, log_format=settings.log_format)


def own_line(task: Task, network: nn.Module, *, program: str) -> OwnLine:
    """What a model's labels and fixed buffers are compared with. `network`, a student of the task, was just made."""
    return OwnLine(task=task.name, description=description_of(task, network), program=program, noun=_noun_of(task))


def teachers_line(task: Task, teacher: nn.Module) -> OwnLine:
    """What the labels and fixed buffers in a teacher's file are compared with. `teacher` was just made."""
    return OwnLine(
        task=task.name,
        description=description_of(task, teacher),
        noun=_noun_of(task),
        network="teacher",
        place="the teacher file",
        remedy="make it again: asyncfedkd device pretrain-teacher",
    )


def _noun_of(task: Task) -> str:
    """What the labels of the task are called in messages."""
    return "classes" if task.objective.kind == "classification" else "labels"


def where_from(task: Task) -> str:
    """Where the teacher of a task without data for it comes from."""
    if task.teacher_source:
        return f"which comes from: {task.teacher_source}"
    return "and neither data to make it (teacher_data) nor a word on where it comes from (teacher_source)"


def load_weights(path: Path, network: nn.Module, own: OwnLine, *, roles: frozenset[Role]) -> None:
    """Copies the weights in a file of this project, or in a checkpoint of another program, into `network`.

    Args:
        path: of the file.
        network: a student or teacher of the task that was just made.
        own: what the labels and fixed buffers in the file are compared with.
        roles: that a file of this project may have.

    Raises:
        ModelFileError: the file cannot be read, or is not of this network.
    """
    what = f"{own.network} of task {own.task}"
    if not is_own_file(path):
        load_checkpoint(path, network, what=what)
        return
    file = read_model(path, task=own.task, roles=roles)
    refusal = own.refusal(file.line)
    if refusal is not None:
        raise ModelFileError(f"model file {path}: {refusal}")
    try:
        load_vector(network, file.layout, file.weights)
    except LayoutError as error:
        other = "teacher" if own.network == "student" else "student"
        raise ModelFileError(f"model file {path}: does not fit the {what} ({error}); is it a {other}?") from None


def client_id(task: Task, device: str) -> str:
    """The MQTT client id. Names contain no colon, so different pairs have different ids.

    The separator is not a slash, because some brokers' access lists do not match a client id that contains one.
    """
    return f"fedkd:{task.name}:{device}"


def model_trust(keys: tuple[PublicKey, ...], line: str, memory: TrustMemory) -> ModelTrust | None:
    """Which manifests of a line are accepted; None without pinned keys: all."""
    return ModelTrust(keys, task=line, memory=memory, unix=SYSTEM_CLOCK.unix) if keys else None
