"""The settings of one command. Each is a flag and an environment variable; the flag takes precedence.

A command declares its settings in a subclass of `CommandSettings`. `read_settings` reads them, and reports all errors
in one line.
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
    """A setting is wrong or missing; the text is one line for the user. The program ends with exit code 2."""


class CommandSettings(BaseSettings):
    """Base class of the settings of a command."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_prefix_target="all",
        env_ignore_empty=True,
    )
    only_flags: ClassVar[Collection[str]] = ()
    """Names of settings that have a flag but no environment variable."""
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
