"""Begins the next line of a task: its ledger, with version 0 in it, beside the ledgers of the older lines.

The ledger is written under a temporary name and then renamed, so that it is complete or not there, whenever the program
is killed. The aggregator, whether it runs already or is started later, finds it by its name (`ledgers.py`).
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aggregator.initial_model import InitialModel, read_initial_model
from aggregator.ledger.file_format import LedgerError, give_to
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.line_facts import read_description
from aggregator.ledger.reading import READABLE, reading
from aggregator.ledger.records import row_of
from aggregator.lines.ledgers import ledgers_of, path_of_line
from aggregator.model_line import LineSettings, opening_release
from wire_contract.encoding import EncodingName
from wire_contract.errors import ContractError
from wire_contract.files.atomic_write import move_to_new_name, remove_unfinished, sync_file, temporary_file
from wire_contract.layout import Layout
from wire_contract.line_description import LineDescription, other_buffer, other_labels
from wire_contract.lines import line_name
from wire_contract.publication.release import Release


class LineError(ContractError):
    """The line cannot be begun or closed; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class LineLedger:
    """What distinguishes a line, read from its ledger."""

    name: str
    path: Path
    shard: int
    layout: Layout
    description: LineDescription | None
    """None: the line began without one."""
    first_digest: bytes | None
    """Digest of its version 0; None if the ledger does not have that version any more."""
    is_closed: bool

    def is_for(self, initial: InitialModel) -> bool:
        """Whether devices cannot tell it from a line that begins with this model."""
        here, there = self.description, initial.line
        if self.layout != initial.layout:
            return False
        return here is None or there is None or not _differ(here, there)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A line that was begun."""

    name: str
    path: Path
    before: bool
    """It was begun by an earlier call, with the same initial model."""


def read_lines(ledger: Path, *, task: str) -> Sequence[LineLedger]:
    """The lines of a task, oldest first, given the ledger of the first one.

    Raises:
        LedgerError: a ledger cannot be read.
        LineError: the ledger is not that of the first line of this task, or has no model yet.
    """
    found = [_read(path) for path in ledgers_of(ledger)]
    for number, line in enumerate(found, 1):
        if line.name != line_name(task, number):
            raise LineError(f"ledger {line.path} is of {line.name!r}, not of {line_name(task, number)!r}")
    return found


def _differ(here: LineDescription, there: LineDescription) -> bool:
    return other_labels(here, there, mine="") is not None or other_buffer(here, there) is not None


def _read(path: Path) -> LineLedger:
    with reading(path, formats=READABLE) as db:
        meta = dict(db.execute("SELECT key, value FROM meta"))
        first = db.execute("SELECT digest FROM version WHERE version = 0").fetchone()
        description = read_description(db, path)
    if "layout" not in meta:
        raise LineError(f"ledger {path} has no model yet; start the aggregator on it with --initial-model first")
    return LineLedger(
        name=meta["task"],
        path=path,
        shard=int(meta["shard"]),
        layout=msgspec.msgpack.decode(meta["layout"], type=Layout),
        description=description,
        first_digest=None if first is None else first[0],
        is_closed="closed_at" in meta,
    )


def begin_next_line(
    ledger: Path, *, task: str, initial_model: Path, encoding: EncodingName, unix: Callable[[], float]
) -> Begun:
    """Begins the line after the newest one of `task`. Called again with the same initial model, it changes nothing.

    Args:
        ledger: of the first line.
        task: its name.
        initial_model: file with the new student.
        encoding: in which version 0 is published.
        unix: returns the time in Unix seconds.

    Raises:
        LedgerError: a ledger cannot be read, or the new one cannot be written.
        InitialModelError: the file cannot be used.
        LineError: a line that is still open has this student.
    """
    lines = read_lines(ledger, task=task)
    initial = read_initial_model(initial_model, task=task)
    layout, weights = initial.layout, initial.weights
    name = line_name(task, len(lines) + 1)
    first = opening_release(LineSettings(task=name, model_encoding=encoding), layout, weights, published_at=unix())
    newest = lines[-1]
    if len(lines) > 1 and newest.is_for(initial) and newest.first_digest == first.published.digest:
        return Begun(name=newest.name, path=newest.path, before=True)
    for line in lines:
        if line.is_for(initial) and not line.is_closed:
            raise LineError(
                f"line {line.name} has the student of {initial_model} and is open, so devices could not tell the two "
                "lines apart; a next line is for a student with other tensors or labels"
            )
    path = path_of_line(ledger, len(lines) + 1)
    _write(path, first, initial, beside=lines[0])
    return Begun(name=name, path=path, before=False)


def _write(path: Path, first: Release, initial: InitialModel, *, beside: LineLedger) -> None:
    try:
        remove_unfinished(path)
        with temporary_file(path) as new:
            lock_file = new.with_name(f"{new.name}.lock")
            try:
                with closing(Ledger(new, task=first.published.task, shard=beside.shard)) as ledger:
                    ledger.begin_line(row_of(first), initial.layout, initial.weights, initial.line)
            finally:
                lock_file.unlink(missing_ok=True)
            give_to(new, owner_of=beside.path)
            sync_file(new)
            move_to_new_name(new, path)
    except FileExistsError:
        raise LineError(f"ledger {path} was created by another program meanwhile; run this again") from None
    except OSError as error:
        raise LedgerError(f"ledger {path}: {error.strerror or error}") from None
