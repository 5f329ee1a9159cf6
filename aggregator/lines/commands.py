"""The commands `begin-line` and `close-line`."""

import time
from pathlib import Path

from pydantic import Field

from aggregator.ledger.closing import close_line
from aggregator.lines.begin import LineError, begin_next_line, read_lines
from wire_contract.encoding import EncodingName
from wire_contract.program.command_settings import CommandSettings
from wire_contract.settings import TaskName

_LEDGER = "ledger of the task's first line, as for run"


class BeginLineSettings(CommandSettings):
    """Begins the next line of a task, for a changed student, even while the aggregator runs."""

    task: TaskName = Field(description="name of the task")
    ledger: Path = Field(Path("ledger.sqlite3"), description=_LEDGER)
    initial_model: Path = Field(description="safetensors file with the new student, made by initial-model")
    model_encoding: EncodingName = Field("float16", description="encoding of the line's first version")


class CloseLineSettings(CommandSettings):
    """Closes the oldest open line of a task, which has been followed by another, even while the aggregator runs."""

    task: TaskName = Field(description="name of the task")
    ledger: Path = Field(Path("ledger.sqlite3"), description=_LEDGER)


def begin(settings: BeginLineSettings) -> None:
    """Runs `begin-line`."""
    begun = begin_next_line(
        settings.ledger,
        task=settings.task,
        initial_model=settings.initial_model,
        encoding=settings.model_encoding,
        unix=time.time,
    )
    if begun.before:
        print(f"line {begun.name} has begun already, with this initial model: ledger {begun.path}")
        return
    print(
        f"line {begun.name} begins: ledger {begun.path}. An aggregator that runs on {settings.ledger} serves it from "
        f"now on, beside the older lines. When its devices have moved: asyncfedkd aggregator close-line --task "
        f"{settings.task} --ledger {settings.ledger}"
    )


def close(settings: CloseLineSettings) -> None:
    """Runs `close-line`."""
    lines = read_lines(settings.ledger, task=settings.task)
    *older, newest = lines
    still_open = [line for line in older if not line.is_closed]
    if not older:
        raise LineError(
            f"line {newest.name} is the only one of task {settings.task}, and nothing would follow it; begin the next "
            "line first (begin-line)"
        )
    if not still_open:
        print(f"line {older[-1].name} is closed already; line {newest.name} is the only open one")
        return
    line = still_open[0]
    close_line(line.path, now=time.time())
    print(f"line {line.name} is closed: its newest model stays published, and further updates are refused")
