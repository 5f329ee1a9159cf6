"""An outbox of schema 1, from before models were signed, is upgraded with everything in it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from device_client.downlink.model_trust import TrustedVersion
from device_client.uplink.outbox import Outbox
from tests.device_client.stage import DEVICE, TASK, Kill, Stage, model
from tests.wire_contract.keys import key

OLD = key(1)
BACK_TO_SCHEMA_1 = """
    DROP TABLE note; DROP TABLE untold;
    DROP TABLE believed; ALTER TABLE model DROP COLUMN pins;
    PRAGMA user_version = 1;
"""
"""Removes what later schemas added."""


def test_an_outbox_of_schema_1_is_taken_over_with_all_it_holds(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.aggregator.publish(model(5))
    stage.aggregator.answering = False
    stage.run(lambda: bool(stage.told("sent")))
    with stage.outbox() as outbox:
        incarnation = outbox.incarnation
    with closing(sqlite3.connect(stage.path)) as older:  # as the program before wrote it
        older.executescript(BACK_TO_SCHEMA_1)
    stage.aggregator.answering = True
    with stage.outbox() as outbox:
        assert (outbox.incarnation, len(outbox), outbox.trusted_version()) == (incarnation, 1, None)
        kept = outbox.model()
        assert kept is not None
        assert kept.version == 5
        assert outbox.model(pinned=[OLD.public.key_id]) is None
        outbox.save_trusted_version(TrustedVersion(5, bytes(32), frozenset({OLD.public.key_id})))
    with stage.outbox() as outbox:
        assert outbox.trusted_version() == TrustedVersion(5, bytes(32), frozenset({OLD.public.key_id}))


def test_a_kill_while_the_outbox_is_taken_over_leaves_the_old_one(tmp_path: Path) -> None:
    class Dying(Outbox):
        def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
            if statement.startswith("PRAGMA user_version = "):
                raise Kill
            return super()._execute(statement, *values)

    stage = Stage(tmp_path)
    with stage.outbox():
        pass
    with closing(sqlite3.connect(stage.path)) as older:
        older.executescript(BACK_TO_SCHEMA_1)
    with pytest.raises(Kill):
        Dying(stage.path, task=TASK, device=DEVICE)
    with stage.outbox() as outbox:
        assert outbox.trusted_version() is None
