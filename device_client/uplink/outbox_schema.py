"""The schema of an outbox file: how a new file is created, and how an older one is upgraded on opening.

The schema number is in the file's header (`user_version`). Each schema adds to the one before by the statements of one
SQL file, so a new outbox and one upgraded from schema 1 have the same tables. All upgrades of one opening are one
transaction: a program that is killed in between leaves the file as it was.

A newer schema is refused, because an older program would not maintain what it does not know. Values that only need a
name go into the table `note` and need no new schema.
"""

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.resources import files
from pathlib import Path
from typing import Any

from device_client.uplink.outbox_errors import OutboxDamaged, OutboxForeign
from wire_contract.message_fields import INCARNATION_BYTES

STEPS = ("outbox.sql", "outbox_2.sql", "outbox_3.sql")
"""The upgrade from each schema to the next, beginning with an empty file."""
SCHEMA = len(STEPS)
APPLICATION_ID = 0x464B444F
"""`FKDO` in the file's header: distinguishes an outbox from any other SQLite file."""
WRITTEN_BY = "written-by"
"""Name of the note with the program version that last opened the file."""

Execute = Callable[..., sqlite3.Cursor]
"""Executes a statement with its values."""


def bring_up_to_date(
    path: Path,
    execute: Execute,
    transaction: Callable[[], AbstractContextManager[None]],
    *,
    task: str,
    device: str,
    program: str,
    random_bytes: Callable[[int], bytes],
) -> None:
    """Creates the tables of a new outbox, or adds what an older one lacks.

    Args:
        path: of the file, for messages.
        execute: executes a statement on it.
        transaction: a context in which all statements take effect or none.
        task: that the outbox belongs to.
        device: that the outbox belongs to.
        program: name and version of this program.
        random_bytes: for the incarnation of a new outbox.

    Raises:
        OutboxForeign: it belongs to another task, device or program, or to a newer version.
        OutboxDamaged: the file is corrupt.
    """
    application_id, schema = _first(execute, "PRAGMA application_id"), _first(execute, "PRAGMA user_version")
    is_empty = (application_id, schema) == (0, 0) and not _first(execute, "SELECT count(*) FROM sqlite_schema")
    if not is_empty and application_id != APPLICATION_ID:
        raise OutboxForeign(path, "it is a database of another program", "give another state folder")
    if schema > SCHEMA:
        raise _newer(path, execute, schema)
    execute("PRAGMA journal_mode = WAL")
    execute("PRAGMA synchronous = FULL")
    if not is_empty:
        _check(path, execute, task, device)
    if schema == SCHEMA and _first(execute, "SELECT value FROM note WHERE name = ?", WRITTEN_BY) == program.encode():
        return
    with transaction():
        for step in STEPS[schema:]:
            for statement in _statements(step):
                execute(statement)
        if is_empty:
            execute("INSERT INTO identity VALUES (?, ?, ?, 0)", task, device, random_bytes(INCARNATION_BYTES))
            execute(f"PRAGMA application_id = {APPLICATION_ID}")
        execute("INSERT OR REPLACE INTO note VALUES (?, ?)", WRITTEN_BY, program.encode())
        execute(f"PRAGMA user_version = {SCHEMA}")


def _check(path: Path, execute: Execute, task: str, device: str) -> None:
    found = _first(execute, "PRAGMA quick_check(1)")
    if found != "ok":
        raise OutboxDamaged(path, str(found or "no answer"))
    owner = execute("SELECT task, device FROM identity").fetchone()
    if owner is None:
        raise OutboxDamaged(path, "its identity is missing")
    if owner != (task, device):
        raise OutboxForeign(path, f"it belongs to device {owner[1]} of task {owner[0]}", "give another state folder")


def _newer(path: Path, execute: Execute, schema: int) -> OutboxForeign:
    try:
        written_by = bytes(_first(execute, "SELECT value FROM note WHERE name = ?", WRITTEN_BY)).decode()
    except (sqlite3.Error, TypeError, ValueError):  # a future schema may have another table
        written_by = "a newer version of this program"
    return OutboxForeign(
        path,
        f"{written_by} wrote it in schema {schema}, and this program supports schemas up to {SCHEMA}",
        "run that version or a newer one",
    )


def _first(execute: Execute, statement: str, *values: object) -> Any:
    row = execute(statement, *values).fetchone()
    return None if row is None else row[0]


def _statements(name: str) -> list[str]:
    """The single statements, because `executescript` would commit first. No comment there may hold a semicolon."""
    return (files("device_client.uplink") / name).read_text(encoding="utf-8").split(";")[:-1]
