"""A trial as lines for a terminal, and as JSON."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from device_client.task import Task
from device_client.trial.steps import Step
from wire_contract.program.flags import usable_columns
from wire_contract.program.plain_text import printable

_NAME_CHARACTERS = 15
_INDENT = " " * (15 + _NAME_CHARACTERS)


def about(task: Task) -> str:
    """The first line."""
    objective = task.objective
    labels = f" of {', '.join(task.labels)}" if task.labels else ""
    better = "higher" if objective.higher_is_better else "lower"
    return printable(
        f"task {task.name}: {objective.kind.replace('_', ' ')}{labels}; {objective.main}, {better} is better"
    )


def shown(step: Step, columns: int | None = None) -> str:
    """One step as text; its fault, which is printed once at the end, is left out."""
    width = usable_columns(columns)
    head = f"{step.verdict:<6}{step.name:<{_NAME_CHARACTERS}}{step.seconds:>5.1f} s"
    lines = [head] if step.verdict == "fault" else _wrapped(step.line, f"{head}  ", width)
    for note in step.notes:
        lines += _wrapped(note, f"{_INDENT}note: ", width)
    return "\n".join(lines)


def _wrapped(text: str, first: str, width: int) -> list[str]:
    return textwrap.wrap(
        printable(text), width, initial_indent=first, subsequent_indent=_INDENT, break_on_hyphens=False
    ) or [first.rstrip()]


def as_json(task: Task, steps: Sequence[Step], seconds: float) -> Mapping[str, Any]:
    """The whole trial. `fault` is null, or the line of the first fault."""
    faults = [step.line for step in steps if step.verdict == "fault"]
    return {
        "task": task.name,
        "objective": task.objective.kind,
        "labels": list(task.labels),
        "main_metric": task.objective.main,
        "higher_is_better": task.objective.higher_is_better,
        "ok": not faults,
        "fault": faults[0] if faults else None,
        "seconds": round(seconds, 3),
        "steps": [
            {
                "name": step.name,
                "verdict": step.verdict,
                "seconds": round(step.seconds, 3),
                "line": step.line,
                "notes": list(step.notes),
            }
            for step in steps
        ],
    }
