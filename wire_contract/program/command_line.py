"""What the command lines of all programs have in common: commands by name, `--help`, `--version`, one line for whatever
went wrong, and exit codes.

0 done, or told to stop; 1 the link died, start it again; 2 what trying again will not mend; 130 ended by Ctrl-C.
"""

import codecs
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic_settings import BaseSettings

from wire_contract.errors import ContractError, LinkError
from wire_contract.program.command_settings import UsageError, read_settings
from wire_contract.program.flags import (
    HELP_FLAGS,
    VERSION_FLAG,
    has_version_flag,
    shown_commands,
    usable_columns,
    wrapped,
)

LINK_DIED = 1
USAGE_ERROR = 2
INTERRUPTED = 130
"""128 and the number of SIGINT, as shells have it."""
DISTRIBUTION = "asyncfedkd"

EXTRAS: Mapping[str, str] = {
    "torch": "device",
    "psutil": "device",
    "onnx": "device",
    "onnxscript": "device",
    "amqtt": "simulators",
    "pwdlib": "simulators",
    "rich": "simulators",
    "matplotlib": "simulators",
}
"""Which extra of this distribution brings a module that the base installation lacks."""

_SPELLED = {
    "…": "...",
    "\N{EN DASH}": "-",
    "—": "-",
    "\N{MINUS SIGN}": "-",
    "→": "->",
    "←": "<-",
    "▶": ">",
    "\N{MULTIPLICATION SIGN}": "x",
    "·": "*",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "η": "eta",
    "Σ": "sum",
    "Δ": "delta",
    "β": "beta",
    "ε": "epsilon",
    "²": "^2",
    "‖": "|",
    "“": '"',
    "”": '"',
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{NO-BREAK SPACE}": " ",
}
_ERRORS = "fedkd-spelled"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of a program."""

    settings: type[BaseSettings]
    """Its flags; the first line of their docstring says what the command does."""
    run: Callable[[Any], int | None]
    """Takes the settings that were read; returns the exit code, None for 0."""

    @property
    def says(self) -> str:
        return " ".join((self.settings.__doc__ or "").split())


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program and its commands."""

    name: str
    """At the head of each line that says what is wrong."""
    says: str
    commands: Mapping[str, Command]
    default: str | None = None
    """The command that is meant where none is named."""

    def choose(self, arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
        """The command that these arguments name, and what is left of them.

        Raises:
            UsageError: there is none of that name.
        """
        if arguments and arguments[0] in self.commands:
            return arguments[0], arguments[1:]
        if self.default is not None and (not arguments or arguments[0].startswith("-")):
            return self.default, arguments
        wrong = arguments[0] if arguments else ""
        near = get_close_matches(wrong, self.commands, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.commands)}"
        raise UsageError(f"there is no command {wrong!r}; {hint}")


def version_line() -> str:
    """Name and version of what is installed."""
    try:
        return f"{DISTRIBUTION} {version(DISTRIBUTION)}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return DISTRIBUTION


def contents(program: Program, *, called: str, columns: int | None = None) -> str:
    """The commands of a program."""
    width = usable_columns(columns)
    listed = {name: command.says for name, command in program.commands.items()}
    without = f"; without COMMAND: {program.default}" if program.default else ""
    return "\n".join(
        [
            *wrapped(f"usage: {called} COMMAND [flags]{without}", width, hanging=7),
            "",
            *wrapped(program.says, width),
            "",
            *shown_commands(listed, width),
            "",
            *wrapped(f"Flags of one: {called} COMMAND --help", width),
        ]
    )


def main(program: Program, arguments: Sequence[str], *, called: str) -> int:
    """Carries out what `arguments` ask for. The exit code.

    Args:
        program: its commands.
        arguments: without the program's own name.
        called: how it was started, for help texts: `python -m aggregator`, or `asyncfedkd aggregator`.
    """
    with one_line_errors(program.name) as outcome:
        outcome.code = _carry_out(program, arguments, called)
    return outcome.code


def _carry_out(program: Program, arguments: Sequence[str], called: str) -> int:
    if arguments[:1] == [VERSION_FLAG]:
        print(version_line())
        return 0
    asks_for_help = bool(arguments) and arguments[0] in {"help", *HELP_FLAGS}
    if asks_for_help or (not arguments and program.default is None):
        print(contents(program, called=called))
        if program.default is None:
            return 0
        print()
        arguments = HELP_FLAGS
    name, rest = program.choose(arguments)
    command = program.commands[name]
    started_as = called if name == program.default else f"{called} {name}"
    if VERSION_FLAG in rest and not has_version_flag(command.settings):
        print(version_line())
        return 0
    return command.run(read_settings(command.settings, rest, program=started_as)) or 0


@dataclass
class Outcome:
    """How a program ended."""

    code: int = 0


@contextmanager
def one_line_errors(name: str) -> Iterator[Outcome]:
    """Whatever a user can mend, and Ctrl-C, become one line on standard error and an exit code.

    Anything else is a defect, and keeps its traceback.
    """
    spell_what_a_terminal_lacks()
    outcome = Outcome()

    def end(code: int, line: str) -> None:
        outcome.code = code
        with suppress(OSError, ValueError):  # on a full disk the exit code is all that can be told
            print(f"{name}: {line}", file=sys.stderr)

    try:
        yield outcome
    except LinkError as error:
        end(LINK_DIED, str(error))
    except ContractError as error:
        end(USAGE_ERROR, str(error))
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        end(USAGE_ERROR, f"{error.name} is not installed, which this needs: pip install '{DISTRIBUTION}[{extra}]'")
    except KeyboardInterrupt:
        end(INTERRUPTED, "ended by Ctrl-C")


def spell_what_a_terminal_lacks() -> None:
    """From now on a character that the output's encoding does not have is spelled in ASCII, in place of an error."""
    codecs.register_error(_ERRORS, _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_SPELLED.get(character, "?") for character in lacking), error.end
