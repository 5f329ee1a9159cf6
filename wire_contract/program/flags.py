"""The flags of a command, derived from the fields of its settings, and the text of `--help`.

Each field is a flag (`--client-id X`) and an environment variable (`FEDKD_CLIENT_ID=X`). Values are passed as text to
pydantic, which validates them; this module knows names, choices, units and defaults.
"""

import argparse
import shutil
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from wire_contract.limits import KIB, MIB

ENVIRONMENT_PREFIX = "FEDKD_"
GROUPS = "flag_groups"
"""Name of the class variable with the titles of groups of flags, by the first field of each."""
POSITIONAL = "positional"
"""Name of the class variable with the fields that are given by their place, without a flag."""
ONLY_FLAGS = "only_flags"
"""Name of the class variable with the fields that have no environment variable."""
HELP_FLAGS = ("-h", "--help")
VERSION_FLAG = "--version"

_UNITS = ("seconds", "bytes", "percent", "versions", "updates", "days", "messages", "threads", "devices", "rounds")
_SHOWN = {"broker": "URL", "websocket": "URL", "url": "URL", "hours": "HH:MM-HH:MM", "username": "NAME"}
_COLUMNS_MIN, _COLUMNS_MAX = 32, 100
_INDENT, _GAP = 2, 2
_HELP_COLUMN = 26
_TWO_COLUMNS_MIN = 60
"""On a terminal narrower than this, the help of a flag is printed below it."""


class FlagError(ValueError):
    """The command line cannot be parsed; the text is one line."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag of one command."""

    key: str
    """Name of the setting."""
    name: str
    variable: str
    """Environment variable; empty: there is none."""
    value: str | None
    """Placeholder of the value in help texts; None: a switch without a value, whose opposite is `--no-…`."""
    repeats: bool
    needed: bool
    default: str | None
    """As text for people; None: no default, and `description` says what happens without the flag."""
    description: str
    group: str
    """Title of its group; empty for the first flags."""
    is_positional: bool = False
    """Whether it is given by its place; `name` is then its placeholder."""

    @property
    def shown(self) -> str:
        if self.is_positional:
            return self.name
        if self.value is None:
            return f"{self.name}, --no-{self.name.removeprefix('--')}"
        return f"{self.name} {self.value}" + (" …" if self.repeats else "")

    @property
    def help(self) -> str:
        default = "needed" if self.needed else f"default: {self.default}" if self.default is not None else ""
        notes = "; ".join(note for note in (default, self.variable) if note)
        return f"{self.description} ({notes})" if notes else self.description


def flags_of(settings: type[BaseModel]) -> list[Flag]:
    """The flags of a command, group by group."""
    begins: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        begins |= base.__dict__.get(GROUPS, {})
    flags, group = [], ""
    for name, field in settings.model_fields.items():
        group = begins.get(name, group)
        flag = _flag(name, field, group)
        if flag.key in getattr(settings, POSITIONAL, ()):
            flag = replace(flag, name=flag.key.upper(), variable="", is_positional=True)
        only_flag = flag.key in getattr(settings, ONLY_FLAGS, ())
        flags.append(replace(flag, variable="") if only_flag else flag)
    return flags


def _flag(name: str, field: FieldInfo, group: str) -> Flag:
    key = _alias(field) or name
    switch = field.annotation is bool
    return Flag(
        key=key,
        name="--" + key.replace("_", "-"),
        variable=ENVIRONMENT_PREFIX + key.upper(),
        value=None if switch else _value(key, field),
        repeats=any(get_origin(kind) in {tuple, list} for kind in _kinds(field.annotation)),
        needed=field.is_required(),
        default=None if field.is_required() else _default(key, field.default),
        description=field.description or "",
        group=group,
    )


def _alias(field: FieldInfo) -> str | None:
    alias = field.validation_alias
    first = alias.choices[0] if isinstance(alias, AliasChoices) else alias
    return first if isinstance(first, str) else None


def _kinds(annotation: Any) -> Iterator[Any]:
    """The members of a union, without annotations."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in {Union, types.UnionType}:
        for member in get_args(annotation):
            yield from _kinds(member)
    else:
        yield annotation


def _value(key: str, field: FieldInfo) -> str:
    kinds = list(_kinds(field.annotation))
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return "{" + ",".join(choices) + "}"
    words = key.removesuffix("_max").removesuffix("_min").split("_")
    asked = [get_args(kind)[0] if get_origin(kind) in {tuple, list} else kind for kind in kinds]
    if Path in asked:
        return "FOLDER" if "folder" in (field.description or "").split(";")[0] else "FILE"
    if words[-1] not in _UNITS and (int in asked or float in asked):
        return "N" if int in asked else "NUMBER"
    return _SHOWN.get(words[-1], words[-1].upper())


def _default(key: str, default: Any) -> str | None:
    if default is None or default == "" or default in ((), []):
        return None
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, float):
        return f"{default:g}"
    if "bytes" in key:
        for size, unit in ((MIB, "MiB"), (KIB, "KiB")):
            if default >= size and default % size == 0:
                return f"{default}, which is {default // size} {unit}"
    return str(default)


# -- reading


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FlagError(message.removeprefix("argument "))


def parse(settings: type[BaseModel], arguments: Sequence[str]) -> dict[str, Any]:
    """Parses the command line: values as text, by the names of the settings. Empty values count as not given.

    Raises:
        FlagError: a flag is unknown or lacks its value; one line.
    """
    parser = _Parser(prog="", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    flags = flags_of(settings)
    for flag in flags:
        if flag.is_positional:
            parser.add_argument(flag.key, nargs="?")
        elif flag.value is None:
            parser.add_argument(flag.name, dest=flag.key, action=argparse.BooleanOptionalAction)
        elif flag.repeats:
            parser.add_argument(flag.name, dest=flag.key, action="extend", nargs="+")
        else:
            parser.add_argument(flag.name, dest=flag.key)
    given, rest = parser.parse_known_args(list(arguments))
    if rest:
        raise FlagError(_unknown(rest[0], [flag.name for flag in flags]))
    return {key: value for key, value in vars(given).items() if value != ""}


def _unknown(word: str, known: Sequence[str]) -> str:
    name = word.partition("=")[0]
    if not name.startswith("-"):
        return f"{word!r} belongs to no flag; --help lists them"
    near = get_close_matches(name, known, n=1)
    return f"there is no flag {name}; " + (f"did you mean {near[0]}?" if near else "--help lists them")


# -- help


def help_text(settings: type[BaseModel], *, program: str, columns: int | None = None) -> str:
    """What `--help` prints on a terminal with `columns` columns; None: on this one."""
    flags, width = flags_of(settings), usable_columns(columns)
    needed = [flag.shown for flag in flags if flag.needed]
    usage = " ".join(["usage:", program, *needed, "[flags]"])
    lines = [*wrap(usage, width, hanging=7), "", *wrap(" ".join((settings.__doc__ or "").split()), width), ""]
    groups: dict[str, list[Flag]] = {}
    for flag in flags:
        groups.setdefault(flag.group, []).append(flag)
    for title, members in groups.items():
        lines.append(f"{title or 'flags'}:")
        for flag in members:
            lines += help_rows(flag.shown, flag.help, width)
        lines.append("")
    about = "this text" if len(flags) == 1 else "this text; a variable in parentheses is the same as its flag"
    lines += help_rows(", ".join(HELP_FLAGS), about, width)
    if not has_version_flag(settings):
        lines += help_rows(VERSION_FLAG, "which version of the program this is", width)
    return "\n".join(lines)


def has_version_flag(settings: type[BaseModel]) -> bool:
    """Whether the command has a flag `--version` of its own, as move-forward has."""
    return any(flag.name == VERSION_FLAG for flag in flags_of(settings))


def usable_columns(columns: int | None = None) -> int:
    """Columns to print in: those of the terminal, within reasonable limits."""
    return min(max(columns or shutil.get_terminal_size().columns, _COLUMNS_MIN), _COLUMNS_MAX)


def help_rows(what: str, says: str, width: int, *, column: int = _HELP_COLUMN) -> list[str]:
    """The lines of one entry: what it is, and beside or below it what it does."""
    if width < _TWO_COLUMNS_MIN:
        head = wrap(what, width - _INDENT, hanging=4)
        return _indented(head, _INDENT) + _indented(wrap(says, width - 2 * _INDENT - 2), 2 * _INDENT + 2)
    body = _indented(wrap(says, width - column), column)
    if _INDENT + len(what) + _GAP > column:
        return [*_indented(wrap(what, width - _INDENT, hanging=4), _INDENT), *body]
    return [f"{'':{_INDENT}}{what}".ljust(column) + body[0].lstrip(), *body[1:]]


def _indented(lines: Sequence[str], indent: int) -> list[str]:
    return [" " * indent + line for line in lines]


def wrap(text: str, width: int, *, hanging: int = 0) -> list[str]:
    """Breaks lines at spaces; a list of choices too long for a line is broken at commas, too."""
    spaced = " ".join(word.replace(",", ", ") if len(word) > width else word for word in text.split())
    return textwrap.wrap(
        spaced, width, subsequent_indent=" " * hanging, break_long_words=False, break_on_hyphens=False
    ) or [""]


def command_rows(commands: Mapping[str, str], width: int) -> list[str]:
    """Names of commands and what they do; the first column is as wide as the longest name."""
    column = max(map(len, commands)) + _INDENT + _GAP
    return [line for name, says in commands.items() for line in help_rows(name, says, width, column=column)]
