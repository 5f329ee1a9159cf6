"""The local teacher of method FedKD: how it is stored, and what happens to it in a crash.

It is one safetensors file in the device's state folder, readable by its owner only: the teacher's weights, W_h, and the
number of rounds completed. Each completed round replaces the file atomically; a round that was stopped, or whose
weights are not finite, leaves it as it was. The optimiser starts fresh each round, as the student's does, so nothing
else has to be kept.

The file and the outbox are not written in one transaction. After a kill between the two, the teacher is one round
ahead: that round is trained again, with a teacher that has seen it before. After a power cut the previous file may be
back: the teacher is one round behind. Neither does harm, because no update is made from the teacher's weights; what has
to be sent exactly once is in the outbox alone. For the same reason a full disk is no error here: the teacher is then
kept in memory, and the file is written after a later round.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from device_client.downlink.line_check import OwnLine
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.model_files import ModelFile, ModelFileError, read_model, write_model
from wire_contract.errors import LayoutError
from wire_contract.files.atomic_write import remove_unfinished
from wire_contract.files.permissions import PRIVATE
from wire_contract.layout import Layout, TensorSpec
from wire_contract.model_roles import LOCAL_TEACHERS

log = logging.getLogger(__name__)

LOCAL_TEACHER_NAME = "teacher.local.safetensors"
_NETWORK, _PROJECTION = "teacher", "projection"


class LocalTeacher:
    """Trained together with the student, and never sent."""

    def __init__(
        self,
        network: nn.Module,
        projection: nn.Linear | None,
        *,
        task: str,
        path: Path | None = None,
        warn: Callable[[str], object] = log.warning,
        own_line: OwnLine | None = None,
    ) -> None:
        """Continues from the file at `path` if there is one, else from the given weights.

        Args:
            network: the task's teacher; weights in the file replace its own.
            projection: W_h; likewise.
            task: its name.
            path: of the file; None: keep everything in memory.
            warn: called with one line when the file can no longer be written; once, until a write succeeds again.
            own_line: labels and fixed buffers of the task's teacher; None: they are not compared with the file's.

        Raises:
            ModelFileError: the file is damaged, or belongs to another task, teacher or student.
        """
        self.network = network
        self.projection = projection
        self.rounds = 0
        """Rounds completed, across restarts."""
        self._both = nn.ModuleDict({_NETWORK: network})
        if projection is not None:
            self._both[_PROJECTION] = projection
        self._layout = layout_of(self._both, "exact")
        self._task = task
        self._path = path
        self._warn = warn
        self._own_line = own_line
        self._is_behind = False
        """Whether the file could not be written after the last round."""
        if path is not None and path.exists():
            self._read(path)
        self._kept = vector_of(self._both, self._layout)

    def keep(self) -> None:
        """Accepts the round that was just trained, or discards it if its weights are not finite."""
        weights = vector_of(self._both, self._layout)
        if not np.isfinite(weights).all():
            self.give_up()
            return
        self._kept = weights
        self.rounds += 1
        if self._path is not None:
            self._save(self._path)

    def give_up(self) -> None:
        """Restores the weights of the last accepted round."""
        load_vector(self._both, self._layout, self._kept)

    def _save(self, path: Path) -> None:
        model = ModelFile(
            task=self._task,
            layout=self._layout,
            weights=self._kept,
            rounds=self.rounds,
            role="local-teacher",
            line=None if self._own_line is None else self._own_line.description,
        )
        try:
            remove_unfinished(path)
            write_model(path, model, mode=PRIVATE)
        except (ModelFileError, OSError) as error:
            if not self._is_behind:
                self._warn(f"the local teacher is kept in memory only and will be written after a later round: {error}")
            self._is_behind = True
        else:
            self._is_behind = False

    def _read(self, path: Path) -> None:
        try:
            file = read_model(path, task=self._task, roles=LOCAL_TEACHERS)
            refusal = None if self._own_line is None else self._own_line.refusal(file.line)
            if refusal is not None:
                raise ModelFileError(f"model file {path}: {refusal}")  # noqa: TRY301
            load_vector(self._both, file.layout, file.weights)
        except ModelFileError as error:
            raise ModelFileError(f"{error}; {_remedy(path)}") from None
        except LayoutError:
            raise ModelFileError(
                f"model file {path}: does not fit the teacher and student of task {self._task}; {_remedy(path)}"
            ) from None
        self.rounds = file.rounds or 0


def _remedy(path: Path) -> str:
    return f"move {path.name} away to start with a fresh local teacher; updates that wait to be sent are not lost"


def kept_teacher(state: Path, *, task: str) -> ModelFile:
    """The teacher without W_h, from a device's state folder; the device may be running.

    Raises:
        ModelFileError: there is none, or the file is damaged or belongs to another task.
    """
    file = read_model(state / LOCAL_TEACHER_NAME, task=task, roles=LOCAL_TEACHERS)
    prefix = f"{_NETWORK}."
    chosen = {
        name.removeprefix(prefix): view
        for name, view in file.layout.views(file.weights).items()
        if name.startswith(prefix)
    }
    layout = Layout(tuple(TensorSpec(name, view.shape) for name, view in chosen.items()))
    return ModelFile(
        task=file.task,
        layout=layout,
        weights=layout.flatten(chosen),
        rounds=file.rounds,
        role="teacher",
        line=file.line,
    )
