"""Command lines as tables: a program declares its commands, and the installed command its programs.

    PROGRAM = Program(
        name="aggregator",
        started_as="python -m aggregator",
        summary="Merges updates and publishes versions of the model.",
        commands={
            "run": Command(settings=RunSettings, run="aggregator.commands:run"),
            "status": Command(settings=StatusSettings, run=show_status),
        },
        default="run",
    )
    main = PROGRAM.main

`--help`, `--version`, suggestions for a misspelled name, error lines and exit codes are the same everywhere. A command
given as "module:function" is imported only when it runs, so that help and usage errors do not wait for PyTorch, and do
not need it installed. Settings may be given as "module:Class" in the same way, so that a command does not wait for what
the flags of the others need.
"""

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from wire_contract.program.command_settings import CommandSettings, UsageError, read_settings
from wire_contract.program.exit_codes import DISTRIBUTION, one_line_errors
from wire_contract.program.flags import (
    HELP_FLAGS,
    VERSION_FLAG,
    command_rows,
    has_version_flag,
    usable_columns,
    wrap,
)

Run = Callable[[Any], int | None]
"""Carries a command out: takes its settings, returns the exit code; None is 0."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of a program."""

    settings: type[CommandSettings] | str
    """Its flags; the first line of the docstring says in `--help` what the command does. The class, or "module:Class",
    which is imported when the command is chosen or listed."""
    run: Run | str
    """The function, or "module:function", which is imported when the command runs."""
    before: Callable[[], object] | None = None
    """Called before a function given by name is imported, for example to handle signals during a slow import."""

    @property
    def summary(self) -> str:
        return " ".join((self.settings_class().__doc__ or "").split())

    def settings_class(self) -> type[CommandSettings]:
        """The class of its settings, imported if it is given by name."""
        if not isinstance(self.settings, str):
            return self.settings
        return cast("type[CommandSettings]", _named(self.settings))

    def carry_out(self, settings: CommandSettings) -> int:
        """Runs the command; returns its exit code."""
        if self.before is not None:
            self.before()
        return self.function()(settings) or 0

    def function(self) -> Run:
        """The function of this command, imported if it is given by name."""
        if not isinstance(self.run, str):
            return self.run
        with _no_garbage_collection():
            return cast("Run", _named(self.run))


def _named(reference: str) -> object:
    """What "module:name" stands for."""
    module, _, name = reference.partition(":")
    found: object = getattr(import_module(module), name)
    return found


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pauses the garbage collector, and exempts what is imported from later collections: imports create many objects
    and hardly any garbage, and with PyTorch looking for it takes 0.3 s.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.freeze()
            gc.enable()


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program and its table of commands."""

    name: str
    """At the beginning of every error line."""
    started_as: str
    """What a user types to start it, for help texts."""
    summary: str
    commands: Mapping[str, Command]
    default: str | None = None
    """The command that runs when none is named."""

    def choose(self, arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
        """Returns the name of the command in `arguments`, and the remaining arguments.

        Raises:
            UsageError: there is no such command.
        """
        if arguments and arguments[0] in self.commands:
            return arguments[0], arguments[1:]
        if self.default is not None and (not arguments or arguments[0].startswith("-")):
            return self.default, arguments
        raise _unknown("command", arguments[0] if arguments else "", self.commands)

    def contents(self, *, called: str, columns: int | None = None) -> str:
        """The text of `--help`: all commands."""
        width = usable_columns(columns)
        listed = {name: command.summary for name, command in self.commands.items()}
        without = f"; without COMMAND: {self.default}" if self.default else ""
        return "\n".join(
            [
                *wrap(f"usage: {called} COMMAND [flags]{without}", width, hanging=7),
                "",
                *wrap(self.summary, width),
                "",
                *command_rows(listed, width),
                "",
                *wrap(f"Flags of one: {called} COMMAND --help", width),
            ]
        )

    def main(self, arguments: Sequence[str] | None = None, *, called: str | None = None) -> int:
        """Carries out what the command line asks for; returns the exit code.

        Args:
            arguments: without the program's own name; None: those of this process.
            called: how it was started, for help texts; None: as `started_as` says.
        """
        with one_line_errors(self.name) as ending:
            ending.code = self._carry_out(sys.argv[1:] if arguments is None else arguments, called or self.started_as)
        return ending.code

    def _carry_out(self, arguments: Sequence[str], called: str) -> int:
        if arguments[:1] == [VERSION_FLAG]:
            print(_version_line())
            return 0
        if _asks_for_help(arguments) or (not arguments and self.default is None):
            print(self.contents(called=called))
            if self.default is None:
                return 0
            print()
            arguments = HELP_FLAGS
        name, rest = self.choose(arguments)
        command = self.commands[name]
        settings = command.settings_class()
        if VERSION_FLAG in rest and not has_version_flag(settings):
            print(_version_line())
            return 0
        started_as = called if name == self.default else f"{called} {name}"
        return command.carry_out(read_settings(settings, rest, program=started_as))


@dataclass(frozen=True, kw_only=True)
class ProgramReference:
    """A program in the table of a `ProgramSuite`, or one command of a program."""

    module: str
    """Imported when it is asked for; its `PROGRAM` is the table of commands."""
    summary: str
    command: str | None = None
    """The only command that is meant; None: the next word of the command line names one."""

    def program(self) -> Program:
        found: Program = import_module(self.module).PROGRAM
        return found


@dataclass(frozen=True, kw_only=True)
class ProgramSuite:
    """Several programs behind one installed command."""

    name: str
    """What a user types, and what begins an error line."""
    groups: Mapping[str, Mapping[str, ProgramReference]]
    """By title in `--help`, then by name."""

    @property
    def programs(self) -> Mapping[str, ProgramReference]:
        return {name: reference for group in self.groups.values() for name, reference in group.items()}

    def choose(self, arguments: Sequence[str]) -> tuple[ProgramReference, Sequence[str], str]:
        """Returns the program in `arguments`, the arguments to pass to it, and how it is called.

        Raises:
            UsageError: there is no such program.
        """
        name, *rest = arguments
        reference = self.programs.get(name)
        if reference is None:
            raise _unknown("program", name, self.programs)
        if reference.command is None:
            return reference, rest, f"{self.name} {name}"
        return reference, [reference.command, *rest], self.name

    def contents(self, columns: int | None = None) -> str:
        """The text of `--help`: all programs."""
        width = usable_columns(columns)
        lines = [f"usage: {self.name} PROGRAM [COMMAND] [flags]", ""]
        for title, group in self.groups.items():
            listed = {name: reference.summary for name, reference in group.items()}
            lines += [f"{title}:", *command_rows(listed, width), ""]
        lines += wrap(
            f"Commands and flags of one: {self.name} PROGRAM --help. Which version this is: {VERSION_FLAG}", width
        )
        return "\n".join(lines)

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Carries out what the command line asks for; returns the exit code."""
        given = sys.argv[1:] if arguments is None else arguments
        with one_line_errors(self.name) as ending:
            if not given or _asks_for_help(given):
                print(self.contents())
            elif given[0] == VERSION_FLAG:
                print(_version_line())
            else:
                reference, rest, called = self.choose(given)
                ending.code = reference.program().main(rest, called=called)
        return ending.code


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return bool(arguments) and arguments[0] in {"help", *HELP_FLAGS}


def _unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return UsageError(f"there is no {kind} {name!r}; {hint}")


def _version_line() -> str:
    try:
        return f"{DISTRIBUTION} {version(DISTRIBUTION)}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return DISTRIBUTION
