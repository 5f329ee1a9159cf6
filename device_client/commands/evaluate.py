"""`evaluate`: measures each new version on held-out data."""

import os
from contextlib import closing

from device_client.commands.setup import client_id, event_log, loaded_task, model_trust, own_line, user_errors
from device_client.downlink.model_feed import models_only
from device_client.downlink.model_trust import VolatileTrustMemory
from device_client.evaluator import Evaluator, Measured, MeasureError
from device_client.learning.accelerator import accelerator_of
from device_client.learning.evaluation import measure as measured
from device_client.learning.parameters import load_vector
from device_client.presence import this_firmware, will
from device_client.settings import EvaluateSettings
from device_client.stop_signals import on_stop
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
    trust = model_trust(read_all_public_keys(settings.model_key), task, VolatileTrustMemory())
    emit, student, held_out = event_log(settings), task.student(), task.held_out()
    own = own_line(task, student, program="evaluator")
    student.to(accelerator_of(settings.accelerator))
    check_measuring(task, student, held_out)

    def measure(published: PublishedVersion) -> Measured:
        load_vector(student, published.layout, published.weights)
        try:
            with called_through_us(f"task {task.name}: evaluation"):
                samples, metrics = measured(
                    student, held_out, task, warn=lambda message: emit("warning", message=message)
                )
        except TaskError as error:
            raise MeasureError(str(error)) from None
        return Measured(samples=samples, metrics=metrics)

    connection = settings.mqtt_settings(
        client_id=client_id(task, settings.device),
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
            main=MainMetric(task.objective.main, task.objective.higher_is_better),
            firmware=this_firmware(),
            trust=trust,
            heartbeat=beats,
            own_line=own,
        )
        on_stop(evaluator.stop)
        emit("started", task=task.name, device=settings.device, pid=os.getpid())
        evaluator.run(once=settings.once)
    emit("stopped")
