"""`python -m device_client COMMAND …`, or `asyncfedkd device COMMAND …`: the commands of a device.

Settings and functions are given by name, so that a command imports only what it needs: `health` is called every few
seconds on a gateway.
"""

import sys

from device_client.stop_signals import end_cleanly_when_stopped, fail_when_stopped
from wire_contract.program.command_line import Command, Program

PROGRAM = Program(
    name="device_client",
    started_as="python -m device_client",
    summary="Trains and evaluates on devices, and prepares what they need.",
    commands={
        "run": Command(
            settings="device_client.settings:RunSettings",
            run="device_client.commands.run:run",
            before=end_cleanly_when_stopped,
        ),
        "evaluate": Command(
            settings="device_client.settings:EvaluateSettings",
            run="device_client.commands.evaluation:evaluate",
            before=end_cleanly_when_stopped,
        ),
        "predict": Command(
            settings="device_client.onnx_inference.settings:PredictSettings",
            run="device_client.commands.predict:predict",
            before=fail_when_stopped("predict"),
        ),
        "export": Command(
            settings="device_client.settings:ExportSettings",
            run="device_client.commands.export:export_model",
            before=fail_when_stopped("export"),
        ),
        "new-task": Command(
            settings="device_client.settings:NewTaskSettings",
            run="device_client.commands.new_task:new_task",
        ),
        "check-task": Command(
            settings="device_client.trial.settings:CheckTaskSettings",
            run="device_client.commands.check_task:check_task",
            before=fail_when_stopped("check-task"),
        ),
        "dicom-check": Command(
            settings="device_client.trial.settings:DicomCheckSettings",
            run="device_client.commands.dicom_check:dicom_check",
            before=fail_when_stopped("dicom-check"),
        ),
        "fingerprints": Command(
            settings="device_client.trial.settings:FingerprintsSettings",
            run="device_client.commands.check_task:show_fingerprints",
            before=fail_when_stopped("fingerprints"),
        ),
        "initial-model": Command(
            settings="device_client.settings:InitialModelSettings",
            run="device_client.commands.initial_files:make_initial_model",
            before=fail_when_stopped("initial-model"),
        ),
        "pretrain-teacher": Command(
            settings="device_client.settings:PretrainTeacherSettings",
            run="device_client.commands.initial_files:pretrain_teacher",
            before=fail_when_stopped("pretrain-teacher"),
        ),
        "health": Command(
            settings="wire_contract.program.health_command:HealthSettings",
            run="wire_contract.program.health_command:show_health",
        ),
        "signing-key": Command(
            settings="device_client.settings:SigningKeySettings",
            run="device_client.commands.signing_key:make_signing_key",
        ),
    },
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(main())
