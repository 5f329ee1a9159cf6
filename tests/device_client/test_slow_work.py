"""Slow work says so; quick work says nothing."""

import queue

import pytest

from device_client.slow_work import slow_work


def test_a_line_says_how_far_the_work_is() -> None:
    said: queue.Queue[str] = queue.Queue()
    with slow_work("reading a folder", first_seconds=0.0, every_seconds=0.0, say=said.put) as progress:
        assert said.get(timeout=60).startswith("reading a folder: still working after 0 s")
        progress.count(3, 1200, "files")
        while "3 of 1,200 files after" not in said.get(timeout=60):
            pass


def test_quick_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with slow_work("reading", first_seconds=3600.0):
        pass
    assert capsys.readouterr().err == ""


def test_a_fault_of_the_work_is_passed_on() -> None:
    with pytest.raises(ZeroDivisionError), slow_work("reading", first_seconds=3600.0):
        _ = 1 // 0
