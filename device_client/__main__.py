"""`python -m device_client COMMAND …`: the programs of a device. Each command tells its flags with `--help`.

Exit codes: 0 done, or told to stop; 1 the link died, start it again; 2 what trying again will not mend, in one line.
"""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from pydantic_settings import BaseSettings

from device_client.settings import (
    EvaluateSettings,
    ExportSettings,
    InitialModelSettings,
    PretrainTeacherSettings,
    RunSettings,
    SigningKeySettings,
)
from wire_contract.connection import UsageError, read_settings
from wire_contract.errors import LinkError
from wire_contract.key_files import write_signing_key
from wire_contract.signing import KeyUnusable

PROGRAM = "python -m device_client"
COMMANDS: Mapping[str, type[BaseSettings]] = {
    "run": RunSettings,
    "evaluate": EvaluateSettings,
    "export": ExportSettings,
    "initial-model": InitialModelSettings,
    "pretrain-teacher": PretrainTeacherSettings,
    "signing-key": SigningKeySettings,
}
LASTING = ("run", "evaluate")
"""Their proper end is to be stopped; the others have then not done what they should."""
LINK_DIED = 1
USAGE_ERROR = 2


def contents() -> str:
    """What there is."""
    lines = [f"  {name:<18}{(settings.__doc__ or '').strip()}" for name, settings in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [flags]",
            "",
            *lines,
            "",
            f"Flags and defaults of one: {PROGRAM} COMMAND --help",
        ]
    )


def on_stop(act: Callable[[], object]) -> None:
    """What SIGTERM and SIGINT do from now on."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        act()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def carry_out(name: str, arguments: Sequence[str]) -> None:
    """One command, to its end.

    Raises:
        UsageError: it cannot be done; one line.
        KeyUnusable: the same, of a key file.
        LinkError: the link's own thread died.
    """
    if name not in COMMANDS:
        raise UsageError(f"there is no command {name!r}; there are {', '.join(COMMANDS)}")
    settings: Any = read_settings(COMMANDS[name], arguments, program=f"{PROGRAM} {name}")
    if name == "signing-key":
        key = write_signing_key(settings.out)
        print(f"key {key.public.key_id.hex()}: {settings.out} is private, {settings.out}.pub is for the aggregator")
        return
    # Until there is something to stop in order, a signal just ends the program: nothing is begun that could be lost.
    on_stop(lambda: sys.exit(0 if name in LASTING else f"device_client: {name} was stopped before it was done"))
    from device_client import commands  # noqa: PLC0415 — torch takes seconds, which help and usage errors do not need

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


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(contents())
        return 0
    name, *rest = arguments
    try:
        carry_out(name, rest)
    except (UsageError, KeyUnusable) as error:
        print(f"device_client: {error}", file=sys.stderr)
        return USAGE_ERROR
    except LinkError as error:
        print(f"device_client: {error}", file=sys.stderr)
        return LINK_DIED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
