"""What the commands do, once their settings are read. Joins the parts; decides nothing."""

import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import torch
from torch import nn

from device_client.downlink.model_feed import ModelFeed, models_only
from device_client.downlink.model_trust import ModelTrust, TrustMemory, VolatileTrustMemory
from device_client.evaluator import Evaluator, Measured
from device_client.events import Emit, EventLog
from device_client.export import ExportError, await_model, export
from device_client.learning.asyncfedkd import train_teacher
from device_client.learning.evaluation import evaluate
from device_client.learning.fedkd import projection_between
from device_client.learning.local_teacher import LOCAL_TEACHER_NAME, LocalTeacher, kept_teacher
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seeded
from device_client.learning.student_trainer import StudentTrainer
from device_client.model_files import ModelFile, ModelFileError, read_model, write_model
from device_client.policy.approval import ApprovalFile
from device_client.policy.conditions import Conditions, unmet
from device_client.policy.probe import Approve, Probe, SimulatedProbe, SystemProbe, never_approved
from device_client.presence import subscriptions, this_firmware, will
from device_client.runner import Runner, RunnerSettings
from device_client.settings import (
    EvaluateSettings,
    ExportSettings,
    InitialModelSettings,
    LearningSettings,
    OnlineSettings,
    PretrainTeacherSettings,
    RunSettings,
)
from device_client.stop_signals import on_stop
from device_client.task import Examples, Recipe, Task, TaskError, scheduled
from device_client.tasks.loading import load_task
from device_client.uplink.outbox import Outbox
from device_client.uplink.outbox_errors import OutboxError
from device_client.uplink.write_retry import WriteRetry
from wire_contract.errors import ContractError, LayoutError, LinkError
from wire_contract.link.mqtt import MqttLink
from wire_contract.model_roles import STUDENTS, TEACHERS
from wire_contract.program.blas_threads import limit_blas_threads
from wire_contract.program.clock import SYSTEM_CLOCK
from wire_contract.program.command_settings import UsageError
from wire_contract.program.health import heartbeat
from wire_contract.publication.manifest import Published
from wire_contract.signatures.key_files import read_all_public_keys, read_signing_key
from wire_contract.signatures.signing import PublicKey
from wire_contract.topics import check_name

OUTBOX_NAME = "outbox.sqlite"


@contextmanager
def user_errors() -> Iterator[None]:
    """Whatever a user can mend becomes one line.

    A link that died passes through: nothing is to be mended, the program should be started again. Everything else is a
    defect and keeps its traceback.
    """
    try:
        yield
    except (UsageError, LinkError):
        raise
    except (TaskError, ModelFileError, ExportError, OutboxError, ContractError) as error:
        raise UsageError(_one_line(str(error))) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise UsageError(_one_line(f"{place}{error.strerror or error}")) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _task(settings: LearningSettings) -> Task:
    torch.set_num_threads(settings.threads)
    limit_blas_threads(settings.threads)
    task = load_task(settings.task, data=settings.data)
    check_name(task.name, "task")
    return task


def _event_log(settings: OnlineSettings) -> EventLog:
    return EventLog(sys.stdout, unix=SYSTEM_CLOCK.unix, log_format=settings.log_format)


def _client_id(task: Task, device: str) -> str:
    """Names hold no colon, so no two pairs give one id; a slash would make some brokers' ACLs refuse it."""
    return f"fedkd:{task.name}:{device}"


# --- run ------------------------------------------------------------------------------------------------------------


@user_errors()
def run(settings: RunSettings) -> None:
    """The device at work, until it is stopped."""
    task = task_with_flags(_task(settings), settings)
    # What can be wrong is found before the first connection.
    model_keys = read_all_public_keys(settings.model_key)
    update_key = None if settings.update_signing_key is None else read_signing_key(settings.update_signing_key)
    examples, teacher, student = task.examples_of(settings.device), teacher_of(task, settings), task.student()
    layout = layout_of(student)
    emit, firmware = _event_log(settings), this_firmware()
    probe = _probe(settings, task)
    connection = settings.mqtt_settings(
        client_id=_client_id(task, settings.device),
        subscriptions=subscriptions(settings.root, task.name, settings.device),
        will=will(settings.root, task.name, settings.device, firmware=firmware),
    )
    with ExitStack() as stack:
        # First, for it locks the state folder: nobody else then writes the local teacher that is read from there.
        outbox = stack.enter_context(open_outbox(settings, task.name, emit))
        beats = stack.enter_context(closing(heartbeat("device", settings.health_file)))
        trainer = _trainer(task, settings, student=student, teacher=teacher, examples=examples, emit=emit)
        trainer.warm_up()
        link = stack.enter_context(closing(MqttLink(connection)))
        runner = Runner(
            task_name=task.name,
            device=settings.device,
            layout=layout,
            link=link,
            root=settings.root,
            outbox=outbox,
            trainer=trainer,
            training_unmet=_unmet(settings.training_conditions, probe),
            upload_unmet=_unmet(settings.upload_conditions, probe),
            clock=SYSTEM_CLOCK,
            uniform=random.uniform,
            emit=emit,
            settings=_runner_settings(settings, task.recipe, firmware),
            traffic=lambda: link.traffic,
            trust=_trust(model_keys, task, outbox),
            update_signing_key=update_key,
            device_metrics=lambda: _device_metrics(probe),
            heartbeat=beats,
        )
        on_stop(runner.stop)
        emit("started", task=task.name, device=settings.device, pid=os.getpid())
        ended = runner.run()
        if ended.refused:
            raise UsageError(ended.reason)
    emit("stopped")


def task_with_flags(task: Task, settings: RunSettings) -> Task:
    """The task with what the flags say otherwise."""
    if settings.method is not None:
        task = replace(task, recipe=replace(task.recipe, method=settings.method))
    return task if settings.schedule_versions is None else scheduled(task, settings.schedule_versions)


def _trainer(
    task: Task,
    settings: RunSettings,
    *,
    student: nn.Module,
    teacher: nn.Module | None,
    examples: Examples,
    emit: Emit,
) -> StudentTrainer:
    local_teacher = None
    if task.recipe.method == "fedkd":
        assert teacher is not None
        projection = projection_between(student, teacher, examples, seed=settings.seed)
        path = settings.state / LOCAL_TEACHER_NAME
        local_teacher = LocalTeacher(
            teacher, projection, task=task.name, path=path, warn=lambda message: emit("warning", message=message)
        )
    return StudentTrainer(
        device=settings.device,
        student=student,
        layout=layout_of(student),
        examples=examples,
        recipe=task.recipe,
        teacher=None if local_teacher else teacher,
        local_teacher=local_teacher,
        seed=settings.seed,
    )


def _trust(keys: tuple[PublicKey, ...], task: Task, memory: TrustMemory) -> ModelTrust | None:
    return ModelTrust(keys, task=task.name, memory=memory, unix=SYSTEM_CLOCK.unix) if keys else None


def _runner_settings(settings: RunSettings, recipe: Recipe, firmware: str) -> RunnerSettings:
    return RunnerSettings(
        encoding=settings.encoding(schedule_versions=recipe.schedule_versions),
        local_rounds_max=settings.local_rounds_max,
        retrain_after_seconds=settings.retrain_after_seconds,
        receipt_timeout_seconds=settings.receipt_timeout_seconds,
        resend_delay_max_seconds=settings.resend_delay_max_seconds,
        duty_cycle=settings.duty_cycle,
        firmware=firmware,
    )


def open_outbox(
    settings: RunSettings, task: str, emit: Emit, *, wait: Callable[[float], object] = time.sleep
) -> Outbox:
    """The outbox, as soon as the disk has the little space that opening it takes."""
    path = settings.state / OUTBOX_NAME
    opened: list[Outbox] = []
    disk = WriteRetry(monotonic=SYSTEM_CLOCK.monotonic, emit=emit)
    while not disk.try_write(
        "outbox",
        lambda: opened.append(Outbox(path, task=task, device=settings.device, entries_max=settings.outbox_updates_max)),
    ):
        wait(1.0)
    return opened[0]


def teacher_of(task: Task, settings: RunSettings) -> nn.Module | None:
    """The frozen teacher, or with fedkd the one to begin with; None where the task has none.

    Raises:
        UsageError: it has one and no file is given, a file is given and it has none, or fedkd lacks one.
        ModelFileError: the file is not a teacher of this task.
    """
    mutual = task.recipe.method == "fedkd"
    if task.teacher is None:
        if settings.teacher is not None:
            raise UsageError(f"task {task.name} has no teacher; leave out --teacher")
        if mutual:
            raise UsageError(f"task {task.name} has no teacher, which fedkd trains; give --method asyncfedkd")
        return None
    if settings.teacher is None:
        if mutual:
            with seeded(settings.seed):
                return task.teacher()
        data = f" --data {settings.data}" if settings.data else ""
        raise UsageError(
            f"task {task.name} has a teacher: make it with `asyncfedkd device pretrain-teacher --task "
            f"{settings.task}{data} --out teacher.safetensors`, then give --teacher teacher.safetensors"
        )
    file = read_model(settings.teacher, task=task.name, roles=TEACHERS)
    teacher = task.teacher()
    try:
        load_vector(teacher, file.layout, file.weights)
    except LayoutError:
        raise ModelFileError(
            f"model file {settings.teacher}: does not fit the teacher of task {task.name}; is it a student?"
        ) from None
    return teacher if mutual else teacher.eval().requires_grad_(False)


def _probe(settings: RunSettings, task: Task) -> Probe:
    approve: Approve = never_approved
    if settings.approval is not None:
        approve = ApprovalFile(settings.approval, task=task.name, device=settings.device).missing
    if settings.simulated_state is not None:
        return SimulatedProbe(settings.simulated_state, approve=approve)
    unmetered = {"unmetered": True, "metered": False, "unknown": None}[settings.network]
    return SystemProbe(unmetered=unmetered, approve=approve)


def _unmet(policy: Conditions, probe: Probe) -> Callable[[], tuple[str, ...]]:
    if not policy:
        return tuple
    return lambda: tuple(unmet(policy, probe.read(SYSTEM_CLOCK.local())).values())


def _device_metrics(probe: Probe) -> dict[str, float]:
    charge = probe.read(SYSTEM_CLOCK.local()).battery_percent
    return {} if charge is None else {"battery_percent": charge}


# --- evaluate and export --------------------------------------------------------------------------------------------


@user_errors()
def evaluate_models(settings: EvaluateSettings) -> None:
    """The evaluator at work, until it is stopped or has measured once."""
    task = _task(settings)
    trust = _trust(read_all_public_keys(settings.model_key), task, VolatileTrustMemory())
    emit, student, held_out = _event_log(settings), task.student(), task.held_out()

    def measure(published: Published) -> Measured:
        load_vector(student, published.layout, published.weights)
        return Measured(samples=len(held_out), metrics=evaluate(student, held_out, task.classes))

    connection = settings.mqtt_settings(
        client_id=_client_id(task, settings.device),
        subscriptions=models_only(settings.root, task.name),
        will=will(settings.root, task.name, settings.device, firmware=this_firmware()),
    )
    with (
        closing(heartbeat("evaluator", settings.health_file)) as beats,
        closing(MqttLink(connection)) as link,
    ):
        evaluator = Evaluator(
            task=task.name,
            device=settings.device,
            root=settings.root,
            link=link,
            measure=measure,
            emit=emit,
            firmware=this_firmware(),
            trust=trust,
            heartbeat=beats,
        )
        on_stop(evaluator.stop)
        emit("started", task=task.name, device=settings.device, pid=os.getpid())
        evaluator.run(once=settings.once)
    emit("stopped")


@user_errors()
def export_model(settings: ExportSettings) -> None:
    """The newest model of the broker, the one in a file, or a device's own teacher, in both forms."""
    task = _task(settings)
    if settings.local_teacher is not None:
        teacher = kept_teacher(settings.local_teacher, task=task.name)
        files = export(task, teacher, settings.out, what="teacher")
        print(f"local teacher of task {task.name}, {teacher.rounds} rounds: {', '.join(str(file) for file in files)}")
        return
    if settings.model is None:
        model = _newest(task, settings)
    else:
        model = read_model(settings.model, task=task.name, roles=STUDENTS)
    files = export(task, model, settings.out)
    which = "" if model.version is None else f" version {model.version}"
    print(f"model{which} of task {task.name}: {', '.join(str(file) for file in files)}")


def _newest(task: Task, settings: ExportSettings) -> ModelFile:
    trust = _trust(read_all_public_keys(settings.model_key), task, VolatileTrustMemory())
    connection = replace(
        settings.mqtt_settings(
            client_id=f"fedkd-export:{task.name}:{secrets.token_hex(4)}",  # several people may export at once
            subscriptions=models_only(settings.root, task.name),
            session_expiry_seconds=0,  # nothing need be kept for one who asks once
        ),
        # With a certificate the session may be the name's own, whatever the client id: that must not be thrown away.
        clean_start=settings.tls_certificate is None,
    )
    with closing(MqttLink(connection)) as link:
        log = EventLog(sys.stderr, unix=SYSTEM_CLOCK.unix, log_format=settings.log_format)
        feed = ModelFeed(link, task=task.name, root=settings.root, emit=log, trust=trust)
        model = await_model(feed, wait_seconds=settings.wait_seconds)
    if model is None:
        reason = feed.trouble or f"there is none below {settings.root}; is an aggregator running?"
        raise UsageError(f"no model of task {task.name} within {settings.wait_seconds:g} s: {reason}")
    return model


# --- files made before anything runs --------------------------------------------------------------------------------


@user_errors()
def make_initial_model(settings: InitialModelSettings) -> None:
    """The weights of a fresh student, the same for the same seed, or those of a file that fits the student."""
    task = _task(settings)
    with seeded(settings.seed):
        student = task.student()
    layout = layout_of(student)
    if settings.weights is not None:
        file = read_model(settings.weights, task=task.name, roles=STUDENTS)
        try:
            load_vector(student, file.layout, file.weights)
        except LayoutError:
            raise ModelFileError(
                f"model file {settings.weights}: does not fit the student of task {task.name}; is it a teacher?"
            ) from None
    weights = vector_of(student, layout)
    write_model(settings.out, ModelFile(task=task.name, layout=layout, weights=weights, role="initial-model"))
    print(f"initial model of task {task.name}, {layout.size} numbers: {settings.out}")


@user_errors()
def pretrain_teacher(settings: PretrainTeacherSettings) -> None:
    """The teacher, trained on its own persons."""
    task = _task(settings)
    if task.teacher is None or task.teacher_data is None:
        what = "teacher" if task.teacher is None else "data for its teacher"
        raise UsageError(f"task {task.name} has no {what}; nothing is to be trained before")
    examples = task.teacher_data()
    with seeded(settings.seed):
        teacher = task.teacher()
    recipe = task.recipe if settings.epochs is None else replace(task.recipe, teacher_epochs=settings.epochs)
    result = train_teacher(teacher, examples, recipe, seed=settings.seed)
    layout = layout_of(teacher)
    weights = vector_of(teacher, layout)
    write_model(settings.out, ModelFile(task=task.name, layout=layout, weights=weights, role="teacher"))
    accuracy = evaluate(teacher, task.held_out(), task.classes)["accuracy"]
    print(
        f"teacher of task {task.name}, {layout.size} numbers, {result.samples} examples, {result.train_seconds:.1f} s, "
        f"accuracy on held-out data {accuracy:.3f}: {settings.out}"
    )
