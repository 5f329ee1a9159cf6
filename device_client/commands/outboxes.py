"""The outboxes of a device: one for each line of its task that it has worked on, all in its state folder.

    outbox.sqlite  outbox.2.sqlite  outbox.3.sqlite  …        of the lines TASK, TASK.2, TASK.3, …

Each has its own incarnation and sequence numbers, so an update keeps its identity when the device goes on to another
line. All of them stay open, and so locked, while the program runs.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from device_client.downlink.lines import Fits
from device_client.events import Emit
from device_client.settings import RunSettings
from device_client.uplink.outbox import Outbox
from device_client.uplink.write_retry import WriteRetry
from wire_contract.lines import line_number
from wire_contract.program.clock import SYSTEM_CLOCK

OUTBOX_NAME = "outbox.sqlite"


def outbox_path(state: Path, number: int) -> Path:
    """The outbox of line `number`."""
    return state / (OUTBOX_NAME if number == 1 else f"outbox.{number}.sqlite")


def open_outbox(
    settings: RunSettings, line: str, emit: Emit, *, number: int = 1, wait: Callable[[float], object] = time.sleep
) -> Outbox:
    """Opens the outbox of a line, as soon as the disk has the little space that this takes."""
    path = outbox_path(settings.state, number)
    opened: list[Outbox] = []
    writes = WriteRetry(monotonic=SYSTEM_CLOCK.monotonic, emit=emit)
    while not writes.try_write(
        "outbox",
        lambda: opened.append(Outbox(path, task=line, device=settings.device, entries_max=settings.outbox_updates_max)),
    ):
        wait(1.0)
    return opened[0]


class Outboxes:
    """Opens what there is in the state folder, and creates the outbox of the first line if there is none."""

    def __init__(self, settings: RunSettings, task: str, emit: Emit) -> None:
        """Raises:
        OutboxError: one of them cannot be used.
        """
        self._settings, self._task, self._emit = settings, task, emit
        self._open: dict[str, Outbox] = {}
        self._stack = ExitStack()
        try:
            self.of(task)  # first, because it locks the folder
            for path in sorted(settings.state.glob("outbox.*.sqlite")):
                name = f"{task}.{path.name.split('.')[1]}"
                if line_number(name, task=task) is not None:
                    self.of(name)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def lines(self) -> Sequence[str]:
        """The lines that have an outbox."""
        return tuple(self._open)

    def of(self, line: str) -> Outbox:
        """The outbox of a line, created if needed."""
        if line not in self._open:
            number = line_number(line, task=self._task)
            assert number is not None, line
            self._open[line] = self._stack.enter_context(open_outbox(self._settings, line, self._emit, number=number))
        return self._open[line]

    def starting_line(self, fits: Fits, *, pinned: Collection[bytes]) -> str:
        """The newest line whose cached model is one of this program's student; else the first line, from which
        manifests lead on.
        """
        numbered = sorted(self._open, key=lambda line: line_number(line, task=self._task) or 0, reverse=True)
        for line in numbered:
            cached = self._open[line].model(pinned=pinned)
            if cached is not None and fits(cached):
                return line
        return self._task
