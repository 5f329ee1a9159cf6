"""docs/security.md names a test for each refusal; each one is there, and each test of a refusal is named."""

import ast
import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
DOCUMENT = (HOUSE / "docs" / "security.md").read_text()
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", DOCUMENT)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOCUMENT.partition("## What is refused")[2].splitlines()
    if line.startswith("|") and not line.startswith(("| action", "| ---"))
]


def found_in(name: str) -> set[str]:
    (path,) = (HOUSE / "tests").rglob(name)
    functions = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in functions if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_each_named_test_is_there(file: str, test: str) -> None:
    assert test in found_in(file)


def test_each_row_names_action_person_result_and_test() -> None:
    assert len(ROWS) == len(NAMED) > 20
    for row in ROWS:
        assert len(row) == 4, row
        assert all(row), row


ALLOWED = {
    "test_a_device_does_all_that_it_needs",
    "test_the_real_aggregator_answers_a_device",
    "test_what_was_sent_to_an_absent_aggregator_waits_over_a_restart",
    "test_a_name_with_a_dot_has_its_own_topics",
}
"""What shows that something works."""


@pytest.mark.parametrize("file", ["test_locked_broker.py", "test_nats.py"])
def test_each_refusal_that_is_tried_is_in_the_table(file: str) -> None:
    assert found_in(file) - ALLOWED == {test for where, test in NAMED if where == file}


def test_the_files_that_documents_name_are_there() -> None:
    readme = (HOUSE / "broker_config" / "README.md").read_text()
    named = set(re.findall(r"`([\w.-]+\.(?:conf|acl))`", readme)) - {"nats-users.conf"}
    there = {path.name for path in (HOUSE / "broker_config").iterdir()} - {"README.md"}
    assert named == there
