"""`initial-model` and `pretrain-teacher`: the files that a federation starts from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from device_client.commands.setup import load_weights, loaded_task, own_line, user_errors, where_from
from device_client.downlink.line_check import SAME_VALUES
from device_client.learning.accelerator import accelerator_of
from device_client.learning.asyncfedkd import train_teacher
from device_client.learning.evaluation import evaluate
from device_client.learning.fixed_buffers import description_of
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.seeding import seeded
from device_client.model_files import ModelFile, ModelFileError, read_model, write_model
from device_client.settings import InitialModelSettings, PretrainTeacherSettings
from device_client.task import Task, TaskError
from device_client.tasks.checking import check_augment, check_network, check_publishable, check_trainable
from wire_contract.line_description import LineDescription, other_buffer
from wire_contract.model_roles import STUDENTS
from wire_contract.program.command_settings import UsageError


@user_errors()
def make_initial_model(settings: InitialModelSettings) -> None:
    """Writes the weights of a fresh student (the same seed gives the same weights), or those of a given file."""
    task = loaded_task(settings)
    with seeded(settings.seed):
        student = task.student()
    layout, line = layout_of(student, task.recipe.statistics), description_of(task, student)
    check_publishable(task, layout)
    _check_again(task, line, task.student, "student")
    if settings.weights is not None:
        own = replace(own_line(task, student, program="command"), place="the file")
        load_weights(settings.weights, student, own, roles=STUDENTS)
    weights = vector_of(student, layout)
    model = ModelFile(task=task.name, layout=layout, weights=weights, role="initial-model", line=line)
    if not _is_there(settings.out, model):
        write_model(settings.out, model)
    print(f"initial model of task {task.name}, {layout.size} parameters: {settings.out}")


@user_errors()
def pretrain_teacher(settings: PretrainTeacherSettings) -> None:
    """Trains a fresh teacher on the task's teacher data, and writes it."""
    task = loaded_task(settings)
    if task.teacher is None:
        raise UsageError(f"task {task.name} has no teacher, so there is nothing to pre-train")
    if task.teacher_data is None:
        raise UsageError(
            f"task {task.name} has no data for its teacher, so there is nothing to pre-train: a teacher, "
            f"{where_from(task)}; give its file to devices with run --teacher FILE"
        )
    examples, held_out = task.teacher_data(), task.held_out()
    with seeded(settings.seed):
        teacher = task.teacher()
    line = description_of(task, teacher)
    _check_again(task, line, task.teacher, "teacher")
    teacher.to(accelerator_of(settings.accelerator))
    check_trainable(teacher, f"task {task.name}: teacher")
    check_augment(task, examples)
    check_network(task, teacher, examples, "teacher")
    recipe = task.recipe if settings.epochs is None else replace(task.recipe, teacher_epochs=settings.epochs)
    result = train_teacher(teacher, examples, recipe, objective=task.objective, seed=settings.seed)
    layout = layout_of(teacher, "exact")
    weights = vector_of(teacher, layout)
    write_model(settings.out, ModelFile(task=task.name, layout=layout, weights=weights, role="teacher", line=line))
    main = task.objective.main
    value = evaluate(teacher, held_out, task)[main]
    print(
        f"teacher of task {task.name}, {layout.size} parameters, {result.samples} examples, "
        f"{result.train_seconds:.1f} s, {main} on held-out data {value:.3f}: {settings.out}"
    )


def _check_again(task: Task, line: LineDescription, make: Callable[[], nn.Module], what: str) -> None:
    """Checks that a network's constructor makes the same fixed buffers on a second call.

    Raises:
        TaskError: it does not, so no other program would have those of this file.
    """
    other = other_buffer(line, description_of(task, make()), place="on the second call", mine="on the first call")
    if other is not None:
        raise TaskError(f"task {task.name}: {what}(): {other}. {SAME_VALUES}")


def _is_there(out: Path, model: ModelFile) -> bool:
    """Whether the file exists with this content. Another content is not overwritten: a line may have begun with it.

    Raises:
        ModelFileError: the file exists, and is not this model.
    """
    if not out.exists():
        return False
    try:
        found = read_model(out, task=model.task)
    except ModelFileError as error:
        raise ModelFileError(f"{error}; it is not overwritten: give another --out, or remove it") from None
    same = (found.layout, found.weights.tobytes()) == (model.layout, model.weights.tobytes())
    if not same or found.role not in {None, *STUDENTS} or not (found.line is None or found.line == model.line):
        raise ModelFileError(
            f"model file {out} exists, with other weights or labels; it is not overwritten, as a line may have begun "
            "with it: give another --out, or remove it"
        )
    return (found.role, found.line, found.version) == (model.role, model.line, model.version)
