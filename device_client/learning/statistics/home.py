"""The running statistics of one device, if the recipe says that they stay at home.

Each device then normalises by its own activations, and only the weights are merged, those of normalising layers
included: SiloBN (Andreux et al. 2020, arXiv:2008.07424). FedBN (Li et al. 2021, arXiv:2102.07623) keeps the weights of
these layers at home as well; here they are merged, because the published model must work without any device, and
weights cannot be estimated from inputs without labels, as statistics can (`estimation.py`).

They are one safetensors file in the device's state folder, readable by its owner only, replaced after each round. After
a kill they may be a round behind, which a few batches of the next round correct.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from device_client.learning.parameters import running_statistics
from device_client.model_files import ModelFile, ModelFileError, read_model, write_model
from wire_contract.files.atomic_write import remove_unfinished
from wire_contract.files.permissions import PRIVATE
from wire_contract.layout import Layout, TensorSpec
from wire_contract.model_roles import STATISTICS

log = logging.getLogger(__name__)

STATISTICS_NAME = "statistics.safetensors"


class HomeStatistics:
    """Of the device's own student, kept from round to round."""

    def __init__(
        self, module: nn.Module, *, task: str, path: Path | None = None, warn: Callable[[str], object] = log.warning
    ) -> None:
        """Continues from the file at `path` if there is one, else from those that `module` has.

        Args:
            module: the student.
            task: its name.
            path: of the file; None: keep them in memory.
            warn: called with one line when the file cannot be written.

        Raises:
            ModelFileError: the file is damaged, or belongs to another task or student.
        """
        self._module, self._task, self._path, self._warn = module, task, path, warn
        if path is not None and path.exists():
            load_statistics(module, path, task=task)
        self._kept = self._copy()

    def restore(self) -> None:
        """Gives the student the statistics of the last accepted round."""
        with torch.no_grad():
            for name, tensor in running_statistics(self._module).items():
                tensor.copy_(self._kept[name])

    def keep(self) -> None:
        """Accepts those of the round that was just trained, if they are finite."""
        trained = self._copy()
        if not all(bool(tensor.isfinite().all()) for tensor in trained.values()):
            return
        self._kept = trained
        if self._path is None:
            return
        layout = _layout(self._kept)
        values = layout.flatten({name: tensor.float().cpu().numpy() for name, tensor in self._kept.items()})
        try:
            remove_unfinished(self._path)
            write_model(
                self._path, ModelFile(task=self._task, layout=layout, weights=values, role="statistics"), mode=PRIVATE
            )
        except (ModelFileError, OSError) as error:
            self._warn(f"running statistics are kept in memory only until a later round: {error}")

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in running_statistics(self._module).items()}


def load_statistics(module: nn.Module, path: Path, *, task: str) -> None:
    """Gives `module` the running statistics in a device's file.

    Raises:
        ModelFileError: there is no such file, it is damaged, or it belongs to another task or student.
    """
    file = read_model(path, task=task, roles=STATISTICS)
    own = running_statistics(module)
    if file.layout != _layout(own):
        raise ModelFileError(
            f"model file {path}: does not fit the student of task {task}; move it away to start with fresh statistics"
        )
    with torch.no_grad():
        for name, view in file.layout.views(file.weights).items():
            own[name].copy_(torch.from_numpy(view.copy()))


def _layout(tensors: dict[str, Tensor]) -> Layout:
    return Layout(tuple(TensorSpec(name, tuple(tensor.shape)) for name, tensor in tensors.items()))
