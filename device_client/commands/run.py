"""`run`: trains and uploads until stopped."""

import os
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from torch import nn

from device_client.commands.outboxes import Outboxes
from device_client.commands.setup import (
    client_id,
    event_log,
    load_weights,
    loaded_task,
    model_trust,
    own_line,
    teachers_line,
    user_errors,
    where_from,
)
from device_client.downlink.lines import fits_student, follower
from device_client.events import Emit
from device_client.freed_memory import return_freed_memory
from device_client.learning.accelerator import accelerator_of
from device_client.learning.fedkd import projection_between
from device_client.learning.local_teacher import LOCAL_TEACHER_NAME, LocalTeacher
from device_client.learning.parameters import layout_of
from device_client.learning.seeding import seeded
from device_client.learning.statistics.home import STATISTICS_NAME, HomeStatistics
from device_client.learning.student_trainer import StudentTrainer
from device_client.model_files import ModelFileError
from device_client.policy.approval import ApprovalFile
from device_client.policy.conditions import Conditions, unmet
from device_client.policy.probe import Approve, Probe, SimulatedProbe, SystemProbe, never_approved
from device_client.presence import subscriptions, this_firmware, will
from device_client.runner import Runner
from device_client.runner_settings import Ended, RunnerSettings
from device_client.settings import RunSettings
from device_client.stop_signals import Stopping, on_stop
from device_client.task import Data, Recipe, Task, scheduled
from device_client.tasks.first_batch import check_first_batch, trial_step
from device_client.tasks.guards import GuardedTrainer
from device_client.tasks.trial import check_learning
from device_client.uplink.other_lines import OtherLine
from device_client.uplink.resending import ResendSettings, ResendTimer
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.protocol import Link
from wire_contract.model_roles import PUBLISHED, TEACHERS, wrong_role
from wire_contract.program.clock import SYSTEM_CLOCK
from wire_contract.program.command_settings import UsageError
from wire_contract.program.health import heartbeat
from wire_contract.signatures.key_files import read_all_public_keys, read_signing_key


@user_errors()
def run(settings: RunSettings) -> None:
    """Runs the device until it is stopped."""
    task = task_with_flags(loaded_task(settings), settings)
    # Everything that may be wrong is read before the first connection.
    model_keys = read_all_public_keys(settings.model_key)
    update_key = None if settings.update_signing_key is None else read_signing_key(settings.update_signing_key)
    data, teacher, student = task.examples_of(settings.device), teacher_of(task, settings), task.student()
    own = own_line(task, student, program="device")
    accelerator = accelerator_of(settings.accelerator)
    student.to(accelerator)
    if teacher is not None:
        teacher.to(accelerator)
    check_first_batch(task, data, f"device_data({settings.device!r})")
    check_learning(task, student=student, teacher=teacher, data=data)
    layout = layout_of(student, task.recipe.statistics)
    emit, firmware = event_log(settings), this_firmware()
    probe = _probe(settings, task)
    connection = settings.mqtt_settings(client_id=client_id(task, settings.device))
    fits, pinned = fits_student(layout, own), frozenset(key.key_id for key in model_keys)
    upload_unmet = _unmet(settings.upload_conditions, probe)
    stopping = Stopping()

    def run_on(line: str) -> Ended:
        """Runs on one line of the task, until the device is stopped or has to go on to the next line."""
        on_the_line = replace(
            connection,
            subscriptions=subscriptions(settings.root, line, settings.device),
            will=will(settings.root, line, settings.device, firmware=firmware),
        )
        with closing(MqttLink(on_the_line)) as link:
            waiting = leave_other_lines(link, outboxes, line, root=settings.root, device=settings.device)
            runner = Runner(
                task_name=line,
                device=settings.device,
                layout=layout,
                link=link,
                root=settings.root,
                outbox=outboxes.of(line),
                trainer=GuardedTrainer(trainer, task.name, device=settings.device),
                training_unmet=_unmet(settings.training_conditions, probe),
                upload_unmet=upload_unmet,
                clock=SYSTEM_CLOCK,
                uniform=random.uniform,
                emit=emit,
                settings=_runner_settings(settings, task.recipe, firmware),
                traffic=lambda: link.traffic,
                trust=model_trust(model_keys, line, outboxes.of(line)),
                follow=follower(task=task.name, fits=fits),
                other_lines=[
                    OtherLine(
                        other,
                        outboxes.of(other),
                        root=settings.root,
                        device=settings.device,
                        link=link,
                        trust=model_trust(model_keys, other, outboxes.of(other)),
                        timer=ResendTimer(_resending(settings), uniform=random.uniform),
                        upload_unmet=upload_unmet,
                        monotonic=SYSTEM_CLOCK.monotonic,
                        emit=emit,
                    )
                    for other in waiting
                ],
                update_signing_key=update_key,
                device_metrics=lambda: _device_metrics(probe),
                heartbeat=beats,
                own_line=own,
            )
            stopping.stops(runner.stop)
            return runner.run()

    with ExitStack() as stack:
        # The outboxes come first: they lock the state folder, from which the local teacher is read.
        outboxes = stack.enter_context(Outboxes(settings, task.name, emit))
        beats = stack.enter_context(closing(heartbeat("device", settings.health_file)))
        trainer = _trainer(task, settings, student=student, teacher=teacher, data=data, emit=emit)
        with trial_step(f"task {task.name}: training a first batch"):
            trainer.warm_up()
        return_freed_memory()
        on_stop(stopping)
        emit("started", task=task.name, device=settings.device, pid=os.getpid())
        ended = run_on(outboxes.starting_line(fits, pinned=pinned))
        while ended.next_line is not None:
            emit("moved", line=ended.next_line)
            ended = run_on(ended.next_line)
        if ended.refused:
            raise UsageError(ended.reason)
    emit("stopped")


def leave_other_lines(link: Link, outboxes: Outboxes, line: str, *, root: str, device: str) -> Sequence[str]:
    """Ends the subscriptions that the session has to other lines. Returns those of them with updates that wait."""
    waiting = []
    for other in outboxes.lines:
        if other == line:
            continue
        if len(outboxes.of(other)):
            waiting.append(other)
            continue
        for topic_filter in subscriptions(root, other, device):
            link.unsubscribe(topic_filter)
    return waiting


def task_with_flags(task: Task, settings: RunSettings) -> Task:
    """The task, with the parts of its recipe that flags override."""
    if settings.method is not None:
        task = replace(task, recipe=replace(task.recipe, method=settings.method))
    return task if settings.schedule_versions is None else scheduled(task, settings.schedule_versions)


def teacher_of(task: Task, settings: RunSettings) -> nn.Module | None:
    """The frozen teacher, or for fedkd the one to start from; None if the task has none.

    Raises:
        UsageError: the task has a teacher and no file is given, it has none and a file is given, or fedkd lacks one.
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
        if task.teacher_data is None:
            raise UsageError(f"task {task.name} has a teacher, {where_from(task)}; give its file with --teacher FILE")
        data = f" --data {settings.data}" if settings.data else ""
        raise UsageError(
            f"task {task.name} has a teacher: make it with `asyncfedkd device pretrain-teacher --task "
            f"{settings.task}{data} --out teacher.safetensors`, then give --teacher teacher.safetensors"
        )
    teacher = teacher_from(task, settings.teacher, may_be_published=settings.teacher_is_published)
    return teacher if mutual else teacher.eval().requires_grad_(False)


def teacher_from(task: Task, path: Path, *, may_be_published: bool = False) -> nn.Module:
    """The task's teacher with the weights in a file.

    Raises:
        ModelFileError: the file is not a teacher of this task, nor a published model where it may be one.
    """
    assert task.teacher is not None
    teacher = task.teacher()
    roles = TEACHERS | PUBLISHED if may_be_published else TEACHERS
    try:
        load_weights(path, teacher, teachers_line(task, teacher), roles=roles)
    except ModelFileError as error:
        if may_be_published or str(wrong_role("published-model", roles)) not in str(error):
            raise
        raise ModelFileError(
            f"{error}; if the student of an earlier line is to be the teacher, add --teacher-is-published"
        ) from None
    return teacher


def _trainer(
    task: Task,
    settings: RunSettings,
    *,
    student: nn.Module,
    teacher: nn.Module | None,
    data: Data,
    emit: Emit,
) -> StudentTrainer:
    local_teacher = None
    if task.recipe.method == "fedkd":
        assert teacher is not None
        projection = projection_between(student, teacher, data, objective=task.objective, seed=settings.seed)
        path = settings.state / LOCAL_TEACHER_NAME
        local_teacher = LocalTeacher(
            teacher,
            projection,
            task=task.name,
            path=path,
            warn=lambda message: emit("warning", message=message),
            own_line=teachers_line(task, teacher),
        )
    statistics = None
    if task.recipe.statistics == "home":
        path = settings.state / STATISTICS_NAME
        statistics = HomeStatistics(
            student, task=task.name, path=path, warn=lambda message: emit("warning", message=message)
        )
    return StudentTrainer(
        device=settings.device,
        student=student,
        layout=layout_of(student, task.recipe.statistics),
        data=data,
        recipe=task.recipe,
        objective=task.objective,
        teacher=None if local_teacher else teacher,
        local_teacher=local_teacher,
        statistics=statistics,
        reload=(lambda: task.examples_of(settings.device)) if task.data_changes else None,
        seed=settings.seed,
    )


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


def _resending(settings: RunSettings) -> ResendSettings:
    return ResendSettings(
        receipt_timeout_seconds=settings.receipt_timeout_seconds,
        backoff_max_seconds=settings.resend_delay_max_seconds,
    )


def _probe(settings: RunSettings, task: Task) -> Probe:
    approve: Approve = never_approved
    if settings.approval is not None:
        approve = ApprovalFile(settings.approval, task=task.name, device=settings.device).missing
    if settings.simulated_state is not None:
        return SimulatedProbe(settings.simulated_state, approve=approve)
    unmetered = {"unmetered": True, "metered": False, "unknown": None}[settings.network]
    return SystemProbe(unmetered=unmetered, approve=approve)


def _unmet(conditions: Conditions, probe: Probe) -> Callable[[], tuple[str, ...]]:
    if not conditions:
        return tuple
    return lambda: tuple(unmet(conditions, probe.read(SYSTEM_CLOCK.local())).values())


def _device_metrics(probe: Probe) -> dict[str, float]:
    charge = probe.read(SYSTEM_CLOCK.local()).battery_percent
    return {} if charge is None else {"battery_percent": charge}
