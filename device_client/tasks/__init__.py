"""The built-in tasks, by name."""

from collections.abc import Callable, Mapping
from pathlib import Path

from device_client.task import Task
from device_client.tasks import har, physiotherapy

BUILT_IN: Mapping[str, Callable[[Path | None], Task]] = {
    "physiotherapy": physiotherapy.task,
    "har": har.task,
}
"""Each takes the data folder that the user gave, if any."""
