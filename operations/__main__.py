"""`python -m operations COMMAND …`, or `asyncfedkd doctor|watch …`: programs for whoever operates a federation."""

import sys
from collections.abc import Sequence
from typing import Any

from operations.doctor.settings import DoctorSettings
from operations.watch.settings import WatchSettings
from wire_contract.program import command_line
from wire_contract.program.command_line import Command, Program

CALLED = "python -m operations"


def _doctor(settings: Any) -> int:
    from operations.doctor import examination  # noqa: PLC0415 — help and usage errors do not need the probes

    return examination.main(settings)


def _watch(settings: Any) -> int:
    from operations.watch import command  # noqa: PLC0415 — help and usage errors do not need the server

    return command.run(settings)


PROGRAM = Program(
    name="operations",
    says="Programs for operating a federation.",
    commands={
        "watch": Command(settings=WatchSettings, run=_watch),
        "doctor": Command(settings=DoctorSettings, run=_doctor),
    },
)


def main(arguments: Sequence[str], *, called: str = CALLED) -> int:
    """The exit code."""
    return command_line.main(PROGRAM, arguments, called=called)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
