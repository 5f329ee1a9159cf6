"""`python -m operations COMMAND …`, or `asyncfedkd doctor|watch …`: programs for whoever operates a federation."""

import sys

from operations.doctor.settings import DoctorSettings
from operations.watch.settings import WatchSettings
from wire_contract.program.command_line import Command, Program

PROGRAM = Program(
    name="operations",
    started_as="python -m operations",
    summary="Programs for operating a federation.",
    commands={
        "watch": Command(settings=WatchSettings, run="operations.watch.command:run"),
        "doctor": Command(settings=DoctorSettings, run="operations.doctor.command:main"),
    },
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(main())
