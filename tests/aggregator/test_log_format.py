"""The aggregator's log: times with their zone, levels, and one JSON object a line for programs."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from aggregator.log_format import LogFormat, LogLevel, configure_logging
from aggregator.settings import RunSettings
from wire_contract.program.command_settings import read_settings


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(log_format: LogFormat, level: LogLevel) -> list[str]:
    out = io.StringIO()
    logging.getLogger().handlers[:] = []  # pytest's own
    configure_logging(out, log_format=log_format, level=level)
    logging.getLogger("aggregator").debug("a detail")
    logging.getLogger("aggregator").info("version %d", 3)
    try:
        int("x")
    except ValueError:
        logging.getLogger("wire_contract.link.mqtt").exception("gone wrong")
    return out.getvalue().splitlines()


def test_a_line_begins_with_a_time_that_knows_its_zone() -> None:
    first = logged("text", "info")[0]
    at, level, message = first.split(" ", 2)
    assert datetime.fromisoformat(at).utcoffset() is not None
    assert (level, message) == ("INFO", "version 3")


def test_json_is_one_object_a_line() -> None:
    lines = [json.loads(line) for line in logged("json", "debug")]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("debug", "a detail"),
        ("info", "version 3"),
        ("error", "gone wrong"),
    ]
    assert all(isinstance(line["at"], float) for line in lines)
    assert "ValueError: " in lines[-1]["trace"]


def test_what_is_below_the_level_is_left_out() -> None:
    assert [json.loads(line)["level"] for line in logged("json", "warning")] == ["error"]


def test_both_are_flags_of_the_aggregator() -> None:
    base = ["--task", "t", "--broker", "mqtt://localhost"]
    settings = read_settings(RunSettings, base, program="p")
    assert (settings.log_format, settings.log_level) == ("text", "info")
    settings = read_settings(RunSettings, [*base, "--log-format", "json", "--log-level", "error"], program="p")
    assert (settings.log_format, settings.log_level) == ("json", "error")
