"""`python -m device_client COMMAND …`, or `asyncfedkd device COMMAND …`: the commands of a device."""

import sys

from device_client.settings import (
    EvaluateSettings,
    ExportSettings,
    InitialModelSettings,
    PretrainTeacherSettings,
    RunSettings,
    SigningKeySettings,
)
from device_client.stop_signals import end_cleanly_when_stopped, fail_when_stopped
from wire_contract.program.command_line import Command, Program
from wire_contract.program.health_command import HealthSettings, show_health
from wire_contract.signatures.key_files import write_signing_key


def make_signing_key(settings: SigningKeySettings) -> None:
    """Writes a new key pair for updates."""
    key = write_signing_key(settings.out)
    print(f"key {key.public.key_id.hex()}: {settings.out} is private, {settings.out}.pub is for the aggregator")


PROGRAM = Program(
    name="device_client",
    started_as="python -m device_client",
    summary="Trains and evaluates on devices, and prepares what they need.",
    commands={
        "run": Command(settings=RunSettings, run="device_client.commands.run:run", before=end_cleanly_when_stopped),
        "evaluate": Command(
            settings=EvaluateSettings,
            run="device_client.commands.evaluate:evaluate_models",
            before=end_cleanly_when_stopped,
        ),
        "export": Command(
            settings=ExportSettings,
            run="device_client.commands.export:export_model",
            before=fail_when_stopped("export"),
        ),
        "initial-model": Command(
            settings=InitialModelSettings,
            run="device_client.commands.initial_files:make_initial_model",
            before=fail_when_stopped("initial-model"),
        ),
        "pretrain-teacher": Command(
            settings=PretrainTeacherSettings,
            run="device_client.commands.initial_files:pretrain_teacher",
            before=fail_when_stopped("pretrain-teacher"),
        ),
        "health": Command(settings=HealthSettings, run=show_health),
        "signing-key": Command(settings=SigningKeySettings, run=make_signing_key),
    },
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(main())
