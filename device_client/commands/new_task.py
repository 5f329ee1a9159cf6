"""`new-task`: the files of a task of one's own."""

from importlib.util import find_spec

from device_client.settings import NewTaskSettings
from device_client.starts.writing import write_start


def new_task(settings: NewTaskSettings) -> None:
    """Writes both files, and says what to do next."""
    task, test = write_start(settings.name, settings.kind, settings.out)
    runner = "" if find_spec("pytest") else "pip install pytest && "
    print(
        f"{settings.kind}: {task} and {test}\n"
        f"check it:  asyncfedkd device check-task --task {task}:task\n"
        f"test it:   {runner}python -m pytest {test}"
    )
