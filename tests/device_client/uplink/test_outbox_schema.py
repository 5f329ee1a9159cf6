"""Outboxes of earlier versions are brought up to date on opening, whole or not at all.

`formats/outbox_2.sqlite` was written by the program as it was before schema 3: updates 2 (sent once) and 3 wait, in
int4 and with a residual, update 1 was merged, and the model, version 7, was signed.
"""

import shutil
import sqlite3
from contextlib import closing
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.presence import this_firmware
from device_client.uplink.outbox import Outbox
from device_client.uplink.outbox_errors import OutboxForeign
from device_client.uplink.outbox_schema import APPLICATION_ID, SCHEMA
from device_client.uplink.rounds import LocalStudent
from tests.device_client.stage import DEVICE, LAYOUT, TASK, Kill, Stage, model

SECOND = Path(__file__).parent / "formats" / "outbox_2.sqlite"
PINNED = (b"key-id-1", b"key-id-2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "outbox.sqlite"
    path.parent.mkdir()
    shutil.copy(SECOND, path)
    return path


def opened(path: Path, kind: type[Outbox] = Outbox) -> Outbox:
    return kind(path, task=TASK, device=DEVICE)


def content(path: Path) -> dict[str, Any]:
    """What stands in a file, by table."""
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows: dict[str, Any] = {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
        rows["schema"] = database.execute("PRAGMA user_version").fetchone()[0]
    return rows


def columns(path: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: database.execute(f"PRAGMA table_info({name})").fetchall() for name in sorted(tables)}


def test_an_outbox_of_the_version_before_keeps_all_that_it_holds(path: Path) -> None:
    before = content(path)
    assert before["schema"] == 2
    with opened(path) as outbox:
        assert (outbox.incarnation, outbox.next_identity.sequence, len(outbox)) == (b"rrrrrrrr", 4, 2)
        assert [outbox.find(number) is not None for number in (1, 2, 3)] == [False, True, True]
        head = outbox.head()
        assert head is not None
        assert (head.identity.sequence, head.attempts, head.base_version) == (2, 1, 7)
        line = outbox.local_student()
        assert isinstance(line, LocalStudent)
        assert (line.base_version, line.rounds, line.finished_at) == (7, 3, 103.0)
        assert line.residual is not None
        assert 0.1 < np.abs(line.residual).max() < 0.3
        cached = outbox.model(pinned=PINNED)
        assert cached is not None
        assert cached.version == 7
        believed = outbox.trusted_version()
        assert believed is not None
        assert (believed.version, believed.key_ids) == (7, frozenset(PINNED))
        assert outbox.unmerged() == []
    after = content(path)
    assert after["schema"] == SCHEMA
    assert {name: after[name] for name in ("identity", "queue", "line", "model", "believed")} == {
        name: before[name] for name in ("identity", "queue", "line", "model", "believed")
    }


def test_a_device_goes_on_where_its_older_program_stopped(tmp_path: Path) -> None:
    stage = Stage(tmp_path, retrain_after_seconds=1.0)
    shutil.copy(SECOND, stage.path)
    stage.run(lambda: stage.runner is not None and len(stage.aggregator.merged) == 3)
    assert [update.sequence for update in stage.aggregator.merged] == [2, 3, 4]
    assert {update.incarnation for update in stage.aggregator.merged} == {b"rrrrrrrr"}


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_each_schema_leads_to_the_same_tables(tmp_path: Path, schema: int) -> None:
    new, older = tmp_path / "new.sqlite", tmp_path / "older.sqlite"
    opened(new).close()
    with closing(sqlite3.connect(older)) as database:
        for name in ("outbox.sql", "outbox_2.sql", "outbox_3.sql")[:schema]:
            database.executescript((files("device_client.uplink") / name).read_text())
        database.execute("INSERT INTO identity VALUES (?, ?, ?, 5)", (TASK, DEVICE, b"rrrrrrrr"))
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {schema}")
        database.commit()
    with opened(older) as outbox:
        assert outbox.next_identity.sequence == 6
    assert columns(older) == columns(new)
    assert content(older)["note"] == content(new)["note"] == [("written-by", this_firmware().encode())]


def test_a_death_in_between_leaves_the_old_file_as_it_was(path: Path, tmp_path: Path) -> None:
    before = content(path)
    for moment in count():
        copy = tmp_path / str(moment) / path.name
        copy.parent.mkdir()
        shutil.copy(path, copy)
        statements = count()

        class Mortal(Outbox):
            is_committed = False

            def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
                if next(statements) == moment:  # noqa: B023
                    shutil.copytree(self.path.parent, self.path.parent.with_suffix(".dead"))  # as a death leaves it
                    raise Kill
                Mortal.is_committed |= statement == "COMMIT"
                return super()._execute(statement, *values)

        try:
            opened(copy, Mortal).close()
        except Kill:
            dead = copy.parent.with_suffix(".dead") / copy.name
            assert Mortal.is_committed or content(dead) == before
            with opened(dead) as outbox:
                assert len(outbox) == 2
            assert content(dead)["schema"] == SCHEMA
        else:
            break
    assert moment > 8, "each statement of the migration was a moment"


def test_a_newer_outbox_is_refused_by_name_and_left_as_it_is(path: Path) -> None:
    opened(path).close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
        database.execute("UPDATE note SET value = ?", (b"asyncfedkd 7.1.0",))
    before = path.read_bytes()
    with pytest.raises(OutboxForeign, match=rf"asyncfedkd 7.1.0 wrote it in schema {SCHEMA + 1}.*run that version"):
        opened(path)
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE note")
    with pytest.raises(OutboxForeign, match="a newer version of this program wrote it"):
        opened(path)


def test_an_outbox_that_is_up_to_date_is_not_written_on_opening(path: Path) -> None:
    opened(path).close()
    statements: list[str] = []

    class Watched(Outbox):
        def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
            statements.append(statement)
            return super()._execute(statement, *values)

    opened(path, Watched).close()
    assert [one for one in statements if not one.startswith(("PRAGMA", "SELECT"))] == []


def test_the_fixture_is_of_this_layout() -> None:
    assert model(7).published.layout == LAYOUT
