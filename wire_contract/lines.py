"""Names of the model lines of a task: `har`, `har.2`, `har.3` and so on.

A line is what a ledger holds: versions of one student. When the student of a task changes, its next line begins. On the
wire each line is a task of its own, with its own topics; the manifest of a line names the line that follows it.
"""

import re

from wire_contract.topics import check_name

_NUMBER = re.compile(r"[2-9]|[1-9][0-9]{1,5}")
"""The first line has no number. Six digits are chosen: more lines than a task will ever have."""


def line_name(task: str, number: int) -> str:
    """The name of a task's line on the wire; the first has number 1 and the task's own name.

    Raises:
        TopicError: the name is too long.
    """
    return check_name(task if number == 1 else f"{task}.{number}", "line")


def line_number(name: str, *, task: str) -> int | None:
    """The number of the line `name`; None if it is no line of `task`."""
    if name == task:
        return 1
    number = name.removeprefix(f"{task}.")
    return int(number) if number != name and _NUMBER.fullmatch(number) else None


def is_later_line(name: str, *, than: str, task: str) -> bool:
    """Whether `name` is a line of `task` that can follow the line `than`."""
    number, before = line_number(name, task=task), line_number(than, task=task)
    return number is not None and before is not None and number > before
