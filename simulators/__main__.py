"""`python -m simulators COMMAND …`, or `asyncfedkd COMMAND …`: programs that show and measure."""

import sys
from collections.abc import Sequence
from typing import Any

from simulators.baselines import BaselineSettings
from simulators.demo_settings import DemoSettings
from simulators.doctor.settings import DoctorSettings
from simulators.embedded_broker import BrokerSettings
from simulators.pace import PaceSettings
from simulators.watch.settings import WatchSettings
from wire_contract import command_line
from wire_contract.command_line import Command, Program

CALLED = "python -m simulators"


def _demo(settings: Any) -> int:
    from simulators import demo  # noqa: PLC0415 — torch takes seconds, which help and usage errors do not need

    return demo.run(settings)


def _baselines(settings: Any) -> int:
    from simulators import baselines  # noqa: PLC0415 — beside the others

    return baselines.main(settings)


def _pace(settings: Any) -> int:
    from simulators import pace  # noqa: PLC0415 — beside the others

    return pace.main(settings)


def _broker(settings: Any) -> int:
    from simulators import embedded_broker  # noqa: PLC0415 — beside the others

    embedded_broker.serve(settings)
    return 0


def _doctor(settings: Any) -> int:
    from simulators.doctor import examination  # noqa: PLC0415 — beside the others

    return examination.main(settings)


def _watch(settings: Any) -> int:
    from simulators.watch import command  # noqa: PLC0415 — beside the others

    return command.run(settings)


PROGRAM = Program(
    name="simulators",
    says="Programs that show and measure.",
    commands={
        "demo": Command(settings=DemoSettings, run=_demo),
        "watch": Command(settings=WatchSettings, run=_watch),
        "doctor": Command(settings=DoctorSettings, run=_doctor),
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
