"""The device's own teacher of method fedkd: where it is kept, and what survives what.

It is one safetensors file in the device's state folder, for its owner's eyes alone: the teacher's weights, W_h, and the
number of rounds they have learned. Each round that is trained to its end replaces it in one step; a round that was
stopped, or whose numbers are no longer finite, leaves it as it was. The optimiser starts afresh each round, as the
student's does, so there is nothing else to keep.

The file and the outbox are not written in one step. A kill between them leaves the teacher one round ahead: that round
is trained again, under a teacher that has seen it before. A power cut may bring the file before back: then the teacher
is one round behind. Neither harms anything, because no update is ever made from the teacher's weights: what is sent
exactly once stands in the outbox alone. For the same reason a full disk does not end the work: the teacher is then kept
in memory, and the file is written after a later round.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

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
    """Learns along with the student, and is never sent."""

    def __init__(
        self,
        network: nn.Module,
        projection: nn.Linear | None,
        *,
        task: str,
        path: Path | None = None,
        warn: Callable[[str], object] = log.warning,
    ) -> None:
        """Goes on from the file at `path` where there is one, else from the weights as given.

        Args:
            network: the task's teacher; its weights are overwritten by those of the file.
            projection: W_h; likewise.
            task: its name.
            path: None keeps everything in memory.
            warn: told once, in one line, when the file cannot be written, and again after it could be meanwhile.

        Raises:
            ModelFileError: the file is damaged, or of another task, teacher or student.
        """
        self.network = network
        self.projection = projection
        self.rounds = 0
        """So many has it learned, in all processes."""
        self._both = nn.ModuleDict({_NETWORK: network})
        if projection is not None:
            self._both[_PROJECTION] = projection
        self._layout = layout_of(self._both)
        self._task = task
        self._path = path
        self._warn = warn
        self._is_behind = False
        """The file could not be written after the last round."""
        if path is not None and path.exists():
            self._read(path)
        self._kept = vector_of(self._both, self._layout)

    def keep(self) -> None:
        """Makes the round just trained the one to go on from; gives it up instead where it is not finite."""
        weights = vector_of(self._both, self._layout)
        if not np.isfinite(weights).all():
            self.give_up()
            return
        self._kept = weights
        self.rounds += 1
        if self._path is not None:
            self._save(self._path)

    def give_up(self) -> None:
        """Forgets what was trained since `keep`."""
        load_vector(self._both, self._layout, self._kept)

    def _save(self, path: Path) -> None:
        model = ModelFile(
            task=self._task, layout=self._layout, weights=self._kept, rounds=self.rounds, role="local-teacher"
        )
        try:
            remove_unfinished(path)
            write_model(path, model, mode=PRIVATE)
        except (ModelFileError, OSError) as error:
            if not self._is_behind:
                self._warn(f"the local teacher is kept in memory only, and written after a later round: {error}")
            self._is_behind = True
        else:
            self._is_behind = False

    def _read(self, path: Path) -> None:
        try:
            file = read_model(path, task=self._task, roles=LOCAL_TEACHERS)
            load_vector(self._both, file.layout, file.weights)
        except ModelFileError as error:
            raise ModelFileError(f"{error}; {_remedy(path)}") from None
        except LayoutError:
            raise ModelFileError(
                f"model file {path}: is of another teacher or student than task {self._task} has; {_remedy(path)}"
            ) from None
        self.rounds = file.rounds or 0


def _remedy(path: Path) -> str:
    return f"move it away ({path.name}), and the local teacher starts afresh; nothing that waits to be sent is lost"


def kept_teacher(state: Path, *, task: str) -> ModelFile:
    """The teacher alone, without W_h, from a device's state folder; the device may be at work.

    Raises:
        ModelFileError: there is none, or the file is damaged or of another task.
    """
    file = read_model(state / LOCAL_TEACHER_NAME, task=task, roles=LOCAL_TEACHERS)
    prefix = f"{_NETWORK}."
    chosen = {
        name.removeprefix(prefix): view
        for name, view in file.layout.views(file.weights).items()
        if name.startswith(prefix)
    }
    layout = Layout(tuple(TensorSpec(name, view.shape) for name, view in chosen.items()))
    return ModelFile(task=file.task, layout=layout, weights=layout.flatten(chosen), rounds=file.rounds, role="teacher")
