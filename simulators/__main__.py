"""`python -m simulators COMMAND …`, or `asyncfedkd COMMAND …`: programs that show and measure."""

import sys
from collections.abc import Sequence
from typing import Any

from operations.__main__ import PROGRAM as OPERATIONS
from simulators.demo.baselines import BaselineSettings
from simulators.demo.calibration import PaceSettings
from simulators.demo.settings import DemoSettings
from simulators.network.embedded_broker import BrokerSettings
from wire_contract.program import command_line
from wire_contract.program.command_line import Command, Program

CALLED = "python -m simulators"


def _demo(settings: Any) -> int:
    from simulators.demo import command as demo  # noqa: PLC0415 — torch takes seconds, which help and usage errors do not need

    return demo.run(settings)


def _baselines(settings: Any) -> int:
    from simulators.demo import baselines  # noqa: PLC0415 — beside the others

    return baselines.main(settings)


def _pace(settings: Any) -> int:
    from simulators.demo import calibration  # noqa: PLC0415 — beside the others

    return calibration.main(settings)


def _broker(settings: Any) -> int:
    from simulators.network import embedded_broker  # noqa: PLC0415 — beside the others

    embedded_broker.serve(settings)
    return 0


PROGRAM = Program(
    name="simulators",
    says="Programs that show and measure.",
    commands={
        "demo": Command(settings=DemoSettings, run=_demo),
        **OPERATIONS.commands,
        "broker": Command(settings=BrokerSettings, run=_broker),
        "baselines": Command(settings=BaselineSettings, run=_baselines),
        "pace": Command(settings=PaceSettings, run=_pace),
    },
)


def main(arguments: Sequence[str], *, called: str = CALLED) -> int:
    """The exit code."""
    return command_line.main(PROGRAM, arguments, called=called)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
