"""`asyncfedkd PROGRAM …`: the table of programs.

Each is imported when it is asked for, so that the aggregator runs where torch is not installed.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

from wire_contract.program.command_line import Program, one_line_errors, version_line
from wire_contract.program.command_settings import UsageError
from wire_contract.program.flags import HELP_FLAGS, VERSION_FLAG, shown_commands, usable_columns, wrapped

CALLED = "asyncfedkd"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One word after `asyncfedkd`."""

    module: str
    """Has `PROGRAM`, and `main` to run it."""
    says: str
    command: str | None = None
    """The command of that program that the word means; None: the next word says which."""

    def program(self) -> Program:
        found: Program = import_module(self.module).PROGRAM
        return found


GROUPS: Mapping[str, Mapping[str, Row]] = {
    "the two sides": {
        "aggregator": Row(
            module="aggregator.__main__",
            says="merges what devices learn and publishes models; also status, telemetry, keys and certificates",
        ),
        "device": Row(
            module="device_client.__main__",
            says="run: learns on this device's data; also evaluate, export, initial-model, pretrain-teacher and more",
        ),
    },
    "to try it, and to look on": {
        "demo": Row(
            module="simulators.__main__",
            command="demo",
            says="devices, aggregator and broker on this machine teach one model; then a report",
        ),
        "broker": Row(module="simulators.__main__", command="broker", says="an MQTT broker for trying things out"),
        "watch": Row(module="operations.__main__", command="watch", says="shows a task live, as a page in the browser"),
        "doctor": Row(
            module="operations.__main__",
            command="doctor",
            says="says whether a broker will do, and what to mend",
        ),
    },
    "to measure": {
        "benchmarks": Row(
            module="benchmarks.__main__", says="accuracy, bytes on the wire, and what telemetry costs; see its --help"
        ),
        "baselines": Row(
            module="simulators.__main__",
            command="baselines",
            says="what a model learns without federation",
        ),
        "pace": Row(module="simulators.__main__", command="pace", says="how fast this machine learns"),
    },
}
ROWS: Mapping[str, Row] = {name: row for group in GROUPS.values() for name, row in group.items()}


def contents(columns: int | None = None) -> str:
    """All programs."""
    width = usable_columns(columns)
    lines = [f"usage: {CALLED} PROGRAM [COMMAND] [flags]", ""]
    for title, group in GROUPS.items():
        lines += [f"{title}:", *shown_commands({name: row.says for name, row in group.items()}, width), ""]
    lines += wrapped(
        f"Commands and flags of one: {CALLED} PROGRAM --help. Which version this is: {VERSION_FLAG}", width
    )
    return "\n".join(lines)


def chosen(arguments: Sequence[str]) -> tuple[Row, Sequence[str], str]:
    """The row that these arguments name, what its program is given, and how that program is called.

    Raises:
        UsageError: there is no such program.
    """
    name, *rest = arguments
    row = ROWS.get(name)
    if row is None:
        near = get_close_matches(name, ROWS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(ROWS)}"
        raise UsageError(f"there is no program {name!r}; {hint}")
    return (row, rest, f"{CALLED} {name}") if row.command is None else (row, [row.command, *rest], CALLED)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    with one_line_errors(CALLED) as outcome:
        if not given or given[0] in {"help", *HELP_FLAGS}:
            print(contents())
        elif given[0] == VERSION_FLAG:
            print(version_line())
        else:
            row, rest, called = chosen(given)
            outcome.code = import_module(row.module).main(rest, called=called)
    return outcome.code
