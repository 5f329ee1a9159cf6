"""What a ledger stores once about its line, in rows of `meta`: layout and description.

`wire_contract/line_description.py` says what a description is.

Older programs ignore rows of `meta` that they do not know, so the description needs no new format: an older aggregator
that opens the ledger publishes its manifests without one.
"""

import sqlite3
from pathlib import Path

import msgspec

from aggregator.ledger.file_format import LedgerError, damaged
from wire_contract.errors import ContractError
from wire_contract.layout import Layout
from wire_contract.line_description import LineDescription


def write_layout(db: sqlite3.Connection, layout: Layout) -> None:
    """Writes the layout of a new line, within the caller's transaction."""
    db.execute("INSERT INTO meta VALUES ('layout', ?)", (msgspec.msgpack.encode(layout),))


def write_description(db: sqlite3.Connection, description: LineDescription) -> None:
    """Writes the description, within the caller's transaction."""
    db.execute("INSERT OR REPLACE INTO meta VALUES ('line', ?)", (msgspec.msgpack.encode(description),))


def read_layout(db: sqlite3.Connection, path: Path) -> Layout | None:
    """The layout; None in an empty ledger.

    Raises:
        LedgerError: it cannot be read; `path` is that of the ledger.
    """
    row = db.execute("SELECT value FROM meta WHERE key = 'layout'").fetchone()
    try:
        return None if row is None else msgspec.msgpack.decode(row[0], type=Layout)
    except (msgspec.MsgspecError, ContractError) as error:
        raise LedgerError(f"ledger {path} is damaged: its layout: {error}") from None


def read_description(db: sqlite3.Connection, path: Path) -> LineDescription | None:
    """The description; None: the line began without one.

    Raises:
        LedgerError: it cannot be read; `path` is that of the ledger.
    """
    row = db.execute("SELECT value FROM meta WHERE key = 'line'").fetchone()
    try:
        return None if row is None else msgspec.msgpack.decode(row[0], type=LineDescription)
    except msgspec.MsgspecError as error:
        raise damaged(path, f"the description of its line: {error}") from None
