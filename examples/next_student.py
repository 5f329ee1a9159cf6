"""A changed student for the task of `own_task.py`: the next line of a federation that goes on meanwhile.

The new student has more hidden units and is taught by the old one, as its line has published it. `docs/deployment.md`
shows the commands, under "A changed student". The name of the task stays the same.
"""

from dataclasses import replace

from own_task import network
from own_task import task as before

from device_client.task import Task


def task() -> Task:
    """The task that `--task` names."""
    return replace(
        before(),
        student=lambda: network(24),
        teacher=lambda: network(16),  # the student before; its weights come from `export`
        teacher_data=None,
    )
