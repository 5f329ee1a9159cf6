"""What a command says in one line."""

import pytest

from aggregator.__main__ import main
from tests.aggregator.synthetic import (
    TASK,
)

BROKER = "mqtt://127.0.0.1:1"


def line(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert main(arguments) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("aggregator: ")
    return said


def run_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return line(capsys, "--task", TASK, "--broker", BROKER, *arguments)
