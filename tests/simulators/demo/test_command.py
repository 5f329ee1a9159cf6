"""The demo as a command: signals, and usage errors in one line."""

import signal

import pytest

from simulators.__main__ import PROGRAM, main
from simulators.demo.command import Interrupted, interruptible
from simulators.processes.signals import signals_deferred


def test_a_signal_interrupts_once() -> None:
    tidied = []

    def work() -> None:
        with interruptible():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGINT)  # while tidying up: nothing happens
                tidied.append(True)

    with pytest.raises(Interrupted, match="SIGTERM"):
        work()
    assert tidied


def test_an_interruption_waits_until_a_new_program_is_known() -> None:
    steps = []

    def work() -> None:
        with interruptible(), signals_deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("known")

    with pytest.raises(Interrupted, match="SIGINT"):
        work()
    assert steps == ["known"]


def test_contents_and_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in PROGRAM.commands)
    assert main(["dance"]) == 2
    assert main(["demo", "--versions", "none"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
