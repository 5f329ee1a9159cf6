"""The settings of one command. Each is a flag and an environment variable; the flag takes precedence.

A command declares its settings in a subclass of `CommandSettings`. `read_settings` reads them, and reports all errors
in one line.
"""

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from wire_contract.errors import ContractError
from wire_contract.program.flags import HELP_FLAGS, Flag, FlagError, flags_of, help_text, parse

S = TypeVar("S", bound="CommandSettings")


class UsageError(ContractError):
    """A setting is wrong or missing; the text is one line for the user. The program ends with exit code 2."""


class CommandSettings(BaseModel):
    """Base class of the settings of a command."""

    # defer_build: of a program's commands only the one that runs needs its validator.
    model_config = ConfigDict(extra="forbid", validate_default=True, defer_build=True)
    only_flags: ClassVar[Collection[str]] = ()
    """Names of settings that have a flag but no environment variable."""
    positional: ClassVar[Collection[str]] = ()
    """Names of settings that are given by their place, without a flag."""
    flag_groups: ClassVar[Mapping[str, str]] = {}
    """Titles in `--help`, by the name of the first setting below each."""


def read_settings(kind: type[S], arguments: Sequence[str], *, program: str) -> S:
    """Reads settings from flags, environment and defaults; `--help` prints them and ends the program.

    Raises:
        UsageError: a setting is wrong, missing or unknown; one line that names each such setting.
    """
    if any(flag in arguments for flag in HELP_FLAGS):
        print(help_text(kind, program=program))
        sys.exit(0)
    try:
        given = parse(kind, arguments)
        return kind(**{**_from_environment(kind), **given})
    except FlagError as error:
        raise UsageError(str(error)) from None
    except ValidationError as error:
        raise UsageError("; ".join(_complaints(error, {flag.key: flag for flag in flags_of(kind)}, given))) from None


def _from_environment(kind: type[BaseModel]) -> dict[str, object]:
    """The variables of these settings that are set, by the names of the settings. Upper and lower case are the same;
    empty values count as not given.
    """
    variables = {name.upper(): value for name, value in os.environ.items() if value}
    return {
        flag.key: _several(variables[flag.variable]) if flag.repeats else variables[flag.variable]
        for flag in flags_of(kind)
        if flag.variable in variables
    }


def _several(text: str) -> object:
    """Values separated by commas, or a JSON list, which some of these variables took before."""
    if text.lstrip().startswith("["):
        with suppress(ValueError):
            found: object = json.loads(text)
            return found
    return text.split(",")


def _complaints(error: ValidationError, flags: Mapping[str, Flag], given: Mapping[str, object]) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        known = flags.get(str(problem["loc"][0])) if problem["loc"] else None
        says = _one_line(problem["msg"].removeprefix("Value error, "))
        if known is None:
            lines.append(says)
        elif problem["type"] == "missing":
            or_variable = f" (or set {known.variable})" if known.variable else ""
            lines.append(f"{known.name} is missing{or_variable}")
        else:
            came_from_environment = known.key not in given and os.environ.get(known.variable)
            lines.append(f"{known.variable if came_from_environment else known.name}: {says}")
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())
