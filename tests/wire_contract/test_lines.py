"""Names of the lines of a task."""

import pytest

from wire_contract.errors import TopicError
from wire_contract.lines import is_later_line, line_name, line_number


def test_the_first_line_has_the_name_of_the_task() -> None:
    assert [line_name("har", number) for number in (1, 2, 12)] == ["har", "har.2", "har.12"]


def test_a_name_that_no_topic_can_hold_is_refused() -> None:
    assert line_name("x" * 62, 2)
    with pytest.raises(TopicError, match="line"):
        line_name("x" * 63, 2)


@pytest.mark.parametrize("number", [1, 2, 9, 10, 99, 123_456])
def test_a_line_is_read_back(number: int) -> None:
    assert line_number(line_name("har.b", number), task="har.b") == number


@pytest.mark.parametrize(
    "name", ["har.1", "har.0", "har.02", "har.two", "har.", "har.2.2", "hare.2", "other", "har.-2"]
)
def test_other_names_are_no_lines_of_the_task(name: str) -> None:
    assert line_number(name, task="har") is None


def test_only_a_later_line_of_the_same_task_can_follow() -> None:
    assert is_later_line("har.2", than="har", task="har")
    assert is_later_line("har.4", than="har.2", task="har")
    for name in ("har", "har.2", "har.1", "other", "other.3"):
        assert not is_later_line(name, than="har.2", task="har"), name
