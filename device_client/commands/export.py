"""`export`: a model as safetensors and ONNX files."""

import secrets
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from device_client.commands.setup import loaded_task, model_trust, own_line, teachers_line, user_errors
from device_client.downlink.line_check import OwnLine
from device_client.downlink.lines import Fits, fits_student, follower, following_line
from device_client.downlink.model_feed import ModelFeed, models_only
from device_client.downlink.model_trust import ModelTrust, VolatileTrustMemory
from device_client.events import EventLog
from device_client.export import ExportedFiles, await_model, export
from device_client.learning.local_teacher import kept_teacher
from device_client.learning.parameters import layout_of
from device_client.model_files import ModelFile, ModelFileError, read_model
from device_client.settings import ExportSettings
from device_client.task import Task
from wire_contract.link.mqtt import MqttLink
from wire_contract.model_roles import STUDENTS
from wire_contract.program.clock import SYSTEM_CLOCK
from wire_contract.program.command_settings import UsageError
from wire_contract.signatures.key_files import read_all_public_keys


@user_errors()
def export_model(settings: ExportSettings) -> None:
    """Exports the broker's newest model, the model in a file, or a device's own teacher."""
    task = loaded_task(settings)
    if settings.local_teacher is not None:
        teacher = kept_teacher(settings.local_teacher, task=task.name)
        if task.teacher is not None:
            _check_line(settings.local_teacher, teachers_line(task, task.teacher()), teacher)
        _report(
            f"local teacher of task {task.name}, {teacher.rounds} rounds",
            export(task, teacher, settings.out, what="teacher"),
        )
        return
    own = own_line(task, task.student(), program="export")
    if settings.model is None:
        model = _newest(task, settings, own)
    else:
        model = read_model(settings.model, task=task.name, roles=STUDENTS)
        _check_line(settings.model, replace(own, place="the file"), model)
    which = "" if model.version is None else f" version {model.version}"
    _report(f"model{which} of task {task.name}", export(task, model, settings.out, statistics=settings.statistics))


def _report(what: str, files: ExportedFiles) -> None:
    print(f"{what}: {files.safetensors}, {files.onnx}")
    for note in files.notes:
        print(f"note: {note}", file=sys.stderr)


def _check_line(path: Path, own: OwnLine, model: ModelFile) -> None:
    refusal = own.refusal(model.line)
    if refusal is not None:
        raise ModelFileError(f"model file {path}: {refusal}")


def _newest(task: Task, settings: ExportSettings, own: OwnLine) -> ModelFile:
    """The newest model of the newest line that has the task's student, whether that line is open or has ended."""
    fits = fits_student(layout_of(task.student(), task.recipe.statistics), own)
    keys = read_all_public_keys(settings.model_key)
    line: str | None = task.name
    found: ModelFile | None = None
    while line is not None:
        trust = model_trust(keys, line, VolatileTrustMemory())
        feed, model = _of_line(line, task, settings, trust=trust, own=own, fits=fits)
        manifest = feed.announcement
        does_fit = manifest is not None and fits(manifest)
        found = model if model is not None and (found is None or does_fit) else found
        if manifest is None or (does_fit and not manifest.closed):
            break
        line = following_line(manifest, task=task.name)
    if found is None:
        reason = feed.trouble or f"there is none below {settings.root}; is an aggregator running?"
        raise UsageError(f"no model of task {task.name} within {settings.wait_seconds:g} s: {reason}")
    return replace(found, task=task.name)


def _of_line(
    line: str, task: Task, settings: ExportSettings, *, trust: ModelTrust | None, own: OwnLine, fits: Fits
) -> tuple[ModelFeed, ModelFile | None]:
    """The newest model of one line; None if it does not fit the student and is followed by another line."""
    connection = replace(
        settings.mqtt_settings(
            client_id=f"fedkd-export:{task.name}:{secrets.token_hex(4)}",  # several people may export at once
            subscriptions=models_only(settings.root, line),
            session_expiry_seconds=0,  # the session is used only once
        ),
        # With a certificate, the broker may derive the client id from the name in it. The session is then the device's
        # own, and must not be discarded.
        clean_start=settings.tls_certificate is None,
    )
    follow = follower(task=task.name, fits=fits, leaves_ended=False)
    with closing(MqttLink(connection)) as link:
        log = EventLog(sys.stderr, unix=SYSTEM_CLOCK.unix, log_format=settings.log_format)
        feed = ModelFeed(link, task=line, root=settings.root, emit=log, trust=trust, own_line=own, follow=follow)
        return feed, await_model(feed, wait_seconds=settings.wait_seconds)
