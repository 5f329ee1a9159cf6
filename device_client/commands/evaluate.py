"""`evaluate`: measures each new version on held-out data."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from device_client.commands.setup import client_id, event_log, loaded_task, model_trust, own_line, user_errors
from device_client.downlink.lines import fits_student, follower
from device_client.downlink.model_feed import models_only
from device_client.downlink.model_trust import VolatileTrustMemory
from device_client.evaluator import Evaluator, Measured, MeasureError
from device_client.learning.accelerator import accelerator_of
from device_client.learning.evaluation import measure as measured
from device_client.learning.parameters import layout_of
from device_client.learning.statistics.estimation import load_model
from device_client.presence import this_firmware, will
from device_client.settings import EvaluateSettings
from device_client.stop_signals import Stopping, on_stop
from device_client.task import TaskError
from device_client.tasks.trial import check_measuring
from device_client.tasks.user_code import called_through_us
from wire_contract.link.mqtt import MqttLink
from wire_contract.main_metric import MainMetric
from wire_contract.program.health import heartbeat
from wire_contract.publication.manifest import PublishedVersion
from wire_contract.signatures.key_files import read_all_public_keys


@user_errors()
def evaluate_models(settings: EvaluateSettings) -> None:
    """Runs the evaluator until it is stopped, or with --once until it has measured one version."""
    task = loaded_task(settings)
    model_keys = read_all_public_keys(settings.model_key)
    emit, student, held_out = event_log(settings), task.student(), task.held_out()
    own = own_line(task, student, program="evaluator")
    student.to(accelerator_of(settings.accelerator))
    check_measuring(task, student, held_out)

    def measure(published: PublishedVersion) -> Measured:
        try:
            with called_through_us(f"task {task.name}: evaluation"):
                load_model(student, published.layout, published.weights, held_out, task.objective)
                samples, metrics = measured(
                    student, held_out, task, warn=lambda message: emit("warning", message=message)
                )
        except TaskError as error:
            raise MeasureError(str(error)) from None
        return Measured(samples=samples, metrics=metrics)

    connection = settings.mqtt_settings(client_id=client_id(task, settings.device))
    follow = follower(task=task.name, fits=fits_student(layout_of(student, task.recipe.statistics), own))
    stopping = Stopping()

    def run_on(line: str, *, left: Sequence[str]) -> str | None:
        """Evaluates one line; returns the line to go on to. The session may have subscriptions to those `left`."""
        on_the_line = replace(
            connection,
            subscriptions=models_only(settings.root, line),
            will=will(settings.root, line, settings.device, firmware=this_firmware()),
        )
        with closing(MqttLink(on_the_line)) as link:
            for topic_filter in [one for other in left for one in models_only(settings.root, other)]:
                link.unsubscribe(topic_filter)
            evaluator = Evaluator(
                task=line,
                device=settings.device,
                root=settings.root,
                link=link,
                measure=measure,
                emit=emit,
                main=MainMetric(task.objective.main, task.objective.higher_is_better),
                firmware=this_firmware(),
                trust=model_trust(model_keys, line, VolatileTrustMemory()),
                follow=follow,
                heartbeat=beats,
                own_line=own,
            )
            stopping.stops(evaluator.stop)
            return evaluator.run(once=settings.once)

    with closing(heartbeat("evaluator", settings.health_file)) as beats:
        on_stop(stopping)
        emit("started", task=task.name, device=settings.device, pid=os.getpid())
        lines = [task.name]
        while (following := run_on(lines[-1], left=lines[:-1])) is not None:
            emit("moved", line=following)
            lines.append(following)
    emit("stopped")
