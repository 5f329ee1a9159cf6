"""`python -m simulators COMMAND …`: programs that show and measure. Each command tells its flags with `--help`."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic_settings import BaseSettings

from simulators.baselines import BaselineSettings
from simulators.demo_settings import DemoSettings
from simulators.doctor.settings import DoctorSettings
from simulators.embedded_broker import BrokerSettings
from simulators.pace import PaceSettings
from simulators.watch.settings import WatchSettings
from wire_contract.connection import UsageError, read_settings

PROGRAM = "python -m simulators"
USAGE_ERROR = 2


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


COMMANDS: Mapping[str, tuple[type[BaseSettings], Callable[[Any], int]]] = {
    "demo": (DemoSettings, _demo),
    "baselines": (BaselineSettings, _baselines),
    "pace": (PaceSettings, _pace),
    "broker": (BrokerSettings, _broker),
    "watch": (WatchSettings, _watch),
    "doctor": (DoctorSettings, _doctor),
}


def contents() -> str:
    """What there is."""
    lines = [f"  {name:<12}{(settings.__doc__ or '').strip()}" for name, (settings, _) in COMMANDS.items()]
    return "\n".join(
        [f"usage: {PROGRAM} COMMAND [flags]", "", *lines, "", f"Flags and defaults of one: {PROGRAM} COMMAND --help"]
    )


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(contents())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"simulators: there is no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return USAGE_ERROR
    settings, command = COMMANDS[name]
    try:
        return command(read_settings(settings, rest, program=f"{PROGRAM} {name}"))
    except UsageError as error:
        print(f"simulators: {error}", file=sys.stderr)
        return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
