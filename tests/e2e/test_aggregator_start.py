"""The real program where it cannot start, or has to wait: one line says why."""

import os

import pytest

from aggregator.ledger.ledger import Ledger
from tests.broker.mosquitto import Mosquitto, free_port
from tests.conftest import MakeMosquitto
from tests.e2e.aggregator_process import AggregatorProcess, poll, turn_until
from tests.e2e.aggregator_stage import Stage

pytestmark = pytest.mark.e2e


def one_line(process: AggregatorProcess, *, code: int = 2) -> str:
    assert process.ends() == code, process.log
    (line,) = process.complaints
    assert line.startswith("aggregator: ")
    return line


def test_a_second_aggregator_on_one_ledger_is_refused(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    first = stage.aggregator()
    poll(lambda: "connected" in first.log, "for the first one")
    assert "another aggregator (process" in one_line(stage.aggregator())
    (sender,) = stage.senders(1, updates=2)
    turn_until([sender], lambda: sender.done)
    stage.balance([sender], first)


def test_without_a_broker_it_says_so_once_and_waits(stage: Stage, make_mosquitto: MakeMosquitto) -> None:
    broker = make_mosquitto()
    stage.port = broker.port
    process = stage.aggregator()
    poll(lambda: len(process.complaints) == 1, "for the line")
    assert "no connection to the broker" in process.complaints[0]
    broker.start()
    (sender,) = stage.senders(1, updates=2)
    turn_until([sender], lambda: sender.done)
    stage.balance([sender], process)
    assert len(process.complaints) == 1


def test_without_a_broker_it_can_be_stopped(stage: Stage) -> None:
    stage.port = free_port()
    process = stage.aggregator()
    poll(lambda: "no connection" in process.log, "for the line")
    assert process.stop() == 0


def test_a_wrong_password_ends_it_with_one_line(stage: Stage, make_mosquitto: MakeMosquitto) -> None:
    broker = make_mosquitto(users={"aggregator": "right"})
    broker.start()
    process = stage.aggregator(broker=f"mqtt://aggregator:wrong@127.0.0.1:{broker.port}")
    line = one_line(process)
    assert "refused" in line
    assert "wrong" not in line


def test_a_ledger_of_another_task_ends_it_with_one_line(stage: Stage) -> None:
    Ledger(stage.ledger, task="another").close()
    assert "its task is 'another', not 'toy'" in one_line(stage.aggregator(broker="mqtt://127.0.0.1:1"))


def test_a_corrupt_ledger_ends_it_with_one_line(stage: Stage) -> None:
    stage.ledger.write_bytes(b"SQLite format 3\0" + os.urandom(8_192))
    assert "is damaged" in one_line(stage.aggregator(broker="mqtt://127.0.0.1:1"))
