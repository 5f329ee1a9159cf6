"""The settings of one command: a flag and an environment variable each; the flag wins.

A program declares its settings in a subclass of `CommandSettings` and reads them with `read_settings`, which turns
whatever is wrong into one line.
"""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from wire_contract.errors import ContractError
from wire_contract.program.flags import ENVIRONMENT_PREFIX, HELP_FLAGS, Flag, FlagError, flags_of, help_text, parse

S = TypeVar("S", bound=BaseSettings)


class UsageError(ContractError):
    """A setting is wrong or missing: one line for the person who started the program, which ends with code 2."""


class CommandSettings(BaseSettings):
    """Flags and environment of one command."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_prefix_target="all",
        env_ignore_empty=True,
    )
    only_flags: ClassVar[Collection[str]] = ()
    """Flags that no environment variable stands for, by the names of the settings."""
    flag_groups: ClassVar[Mapping[str, str]] = {}
    """Titles in `--help`: each stands above the field that it names, and above those that follow in the class."""


def read_settings(kind: type[S], arguments: Sequence[str], *, program: str) -> S:
    """The settings out of flags, environment and defaults; `--help` prints them and ends the program.

    Raises:
        UsageError: something is wrong, missing or unknown; one line that names every such setting.
    """
    if any(flag in arguments for flag in HELP_FLAGS):
        print(help_text(kind, program=program))
        sys.exit(0)
    try:
        given = parse(kind, arguments)
        return kind(**given)
    except FlagError as error:
        raise UsageError(str(error)) from None
    except SettingsError as error:
        raise UsageError(_one_line(str(error))) from None
    except ValidationError as error:
        raise UsageError("; ".join(_complaints(error, {flag.key: flag for flag in flags_of(kind)}, given))) from None


def _complaints(error: ValidationError, flags: Mapping[str, Flag], given: Mapping[str, object]) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        known = flags.get(str(problem["loc"][0])) if problem["loc"] else None
        says = _one_line(problem["msg"].removeprefix("Value error, "))
        if known is None:
            lines.append(says)
        elif problem["type"] == "missing":
            lines.append(f"{known.name} is missing (or set {known.variable})")
        else:
            came_from_environment = known.key not in given and os.environ.get(known.variable)
            lines.append(f"{known.variable if came_from_environment else known.name}: {says}")
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())
