"""`python -m simulators COMMAND …`, or `asyncfedkd COMMAND …`: demo, broker and measurements."""

import sys

from operations.__main__ import PROGRAM as OPERATIONS
from simulators.demo.baselines import BaselineSettings
from simulators.demo.calibration import CalibrationSettings
from simulators.demo.settings import DemoSettings
from simulators.network.embedded_broker import BrokerSettings
from wire_contract.program.command_line import Command, Program

PROGRAM = Program(
    name="simulators",
    started_as="python -m simulators",
    summary="Demo, broker for experiments, and measurements.",
    commands={
        "demo": Command(settings=DemoSettings, run="simulators.demo.command:run"),
        **OPERATIONS.commands,
        "broker": Command(settings=BrokerSettings, run="simulators.network.embedded_broker:serve"),
        "baselines": Command(settings=BaselineSettings, run="simulators.demo.baselines:main"),
        "films": Command(settings="simulators.films.command:FilmsSettings", run="simulators.films.command:make"),
        "pace": Command(settings=CalibrationSettings, run="simulators.demo.calibration:main"),
    },
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(main())
