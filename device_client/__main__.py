"""`python -m device_client COMMAND …`, or `asyncfedkd device COMMAND …`: the programs of a device.

Exit codes: 0 done, or told to stop; 1 the link died, start it again; 2 what trying again will not mend, in one line;
130 ended by Ctrl-C before it was done.
"""

import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from device_client.settings import (
    EvaluateSettings,
    ExportSettings,
    InitialModelSettings,
    PretrainTeacherSettings,
    RunSettings,
    SigningKeySettings,
)
from wire_contract.program import command_line
from wire_contract.program.command_line import Command, Program
from wire_contract.program.health_command import HealthSettings, show_health
from wire_contract.signatures.key_files import write_signing_key

CALLED = "python -m device_client"
LASTING = ("run", "evaluate")
"""Their proper end is to be stopped; the others have then not done what they should."""


def on_stop(act: Callable[[], object]) -> None:
    """What SIGTERM and SIGINT do from now on."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        act()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _signing_key(settings: SigningKeySettings) -> None:
    key = write_signing_key(settings.out)
    print(f"key {key.public.key_id.hex()}: {settings.out} is private, {settings.out}.pub is for the aggregator")


def _command(name: str) -> Callable[[Any], None]:
    """One that needs torch, which takes seconds to load: help and usage errors come without it."""

    def run(settings: Any) -> None:
        # Until there is something to stop in order, a signal ends the program: nothing is begun that could be lost.
        if name in LASTING:
            on_stop(lambda: sys.exit(0))
        else:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"device_client: {name} was stopped before it was done"))
        from device_client import commands  # noqa: PLC0415 — see above

        with commands.user_errors():
            match name:
                case "run":
                    commands.run(settings, on_stop)
                case "evaluate":
                    commands.evaluate_models(settings, on_stop)
                case "export":
                    commands.export_model(settings)
                case "initial-model":
                    commands.make_initial_model(settings)
                case "pretrain-teacher":
                    commands.pretrain_teacher(settings)

    return run


PROGRAM = Program(
    name="device_client",
    says="Learns on a device, and all that belongs to it.",
    commands={
        "run": Command(settings=RunSettings, run=_command("run")),
        "evaluate": Command(settings=EvaluateSettings, run=_command("evaluate")),
        "export": Command(settings=ExportSettings, run=_command("export")),
        "initial-model": Command(settings=InitialModelSettings, run=_command("initial-model")),
        "pretrain-teacher": Command(settings=PretrainTeacherSettings, run=_command("pretrain-teacher")),
        "health": Command(settings=HealthSettings, run=show_health),
        "signing-key": Command(settings=SigningKeySettings, run=_signing_key),
    },
)


def main(arguments: Sequence[str], *, called: str = CALLED) -> int:
    """The exit code."""
    return command_line.main(PROGRAM, arguments, called=called)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
