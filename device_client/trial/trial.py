"""What the steps of a trial share: the task, and what earlier steps have made of it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from device_client.task import Data, Task
from device_client.trial.probes import Shortcut
from wire_contract.layout import Layout, Vector
from wire_contract.publication.manifest import PublishedVersion

SEED = 0
"""Of the student's weights, as `initial-model` draws them by default."""


@dataclass(kw_only=True)
class Trial:
    """One examination of a task. Each step fills in what later ones need."""

    task: Task
    devices: Sequence[str] = ()
    """The devices whose data is loaded; none: those that the task lists."""
    read_teacher: Callable[[Task], nn.Module] | None = None
    """Makes the task's teacher from a file; None: no file was given, and a teacher with fresh weights is used."""
    update_bytes: int
    """Size of an update's tensors."""
    with_onnx: bool = True
    with_shortcuts: bool = False
    """Whether it is looked for what else than the task's subject predicts the labels."""
    accelerator: torch.device = field(default_factory=lambda: torch.device("cpu"))
    monotonic: Callable[[], float] = time.monotonic

    notes: list[str] = field(default_factory=list)
    """Of the step that is running: what works, but with a drawback."""
    student: nn.Module = field(init=False)
    layout: Layout = field(init=False)
    initial: Vector = field(init=False)
    teacher: nn.Module | None = None
    data: dict[str, Data] = field(default_factory=dict)
    """Of the devices that were loaded."""
    held_out: Data = field(init=False)
    teacher_data: Data | None = None
    shortcuts: Sequence[Shortcut] = ()
    """What was found, the best first."""
    base: PublishedVersion = field(init=False)
    payloads: list[bytes] = field(default_factory=list)
    """Encoded updates."""

    @property
    def first_device(self) -> str:
        return next(iter(self.data))

    def note(self, text: str) -> None:
        self.notes.append(text)
