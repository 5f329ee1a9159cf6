"""Small tasks of every built-in kind, exported to ONNX."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from device_client.export import export
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.seeding import seeded
from device_client.model_files import ModelFile
from device_client.task import Examples, Task
from device_client.task.kinds import classification, multi_label, per_pixel, per_token, reconstruction, regression
from device_client.task.objective import Objective

LABELS = ("rest", "walk", "run")
"""Not in alphabetical order, so that a reader who sorts them is found."""


@dataclass(frozen=True)
class Kind:
    """One task."""

    objective: Objective
    network: Callable[[], nn.Module]
    inputs: Callable[[np.random.Generator], Any]
    targets: Callable[[np.random.Generator], Any]


class TwoInputs(nn.Module):
    """A wave and two intervals."""

    def __init__(self) -> None:
        super().__init__()
        self.wave, self.rr = nn.Linear(6, 3), nn.Linear(2, 3)

    def forward(self, wave: Tensor, rr: Tensor) -> dict[str, Tensor]:
        hidden = self.wave(wave)
        return {"hidden": hidden, "logits": hidden + self.rr(rr)}


COUNT = 150
"""More than two passes."""


def floats(*shape: int) -> Callable[[np.random.Generator], Any]:
    return lambda chance: chance.standard_normal((COUNT, *shape)).astype(np.float32)


def whole(classes: int, *shape: int) -> Callable[[np.random.Generator], Any]:
    return lambda chance: chance.integers(0, classes, (COUNT, *shape))


def ignored_sometimes(classes: int, *shape: int) -> Callable[[np.random.Generator], Any]:
    def draw(chance: np.random.Generator) -> Any:
        drawn = chance.integers(0, classes, (COUNT, *shape))
        drawn[:, 0] = -100
        return drawn

    return draw


KINDS = {
    "classification": Kind(classification(LABELS), lambda: nn.Linear(6, 3), floats(6), whole(3)),
    "ranked": Kind(
        classification(LABELS, main="auc", positive=("run",), specificity=0.8),
        lambda: nn.Linear(6, 3),
        floats(6),
        whole(3),
    ),
    "two inputs": Kind(
        classification(LABELS), TwoInputs, lambda chance: {"wave": floats(6)(chance), "rr": floats(2)(chance)}, whole(3)
    ),
    "multi_label": Kind(multi_label(LABELS), lambda: nn.Linear(6, 3), floats(6), whole(2, 3)),
    "regression": Kind(regression(("pulse", "load")), lambda: nn.Linear(6, 2), floats(6), floats(2)),
    "reconstruction": Kind(reconstruction(), lambda: nn.Linear(6, 6), floats(6), lambda _: None),
    "per_pixel": Kind(per_pixel(LABELS), lambda: nn.Conv1d(2, 3, 3, padding=1), floats(2, 8), ignored_sometimes(3, 8)),
    "per_token": Kind(
        per_token(5), lambda: nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)), whole(5, 7), ignored_sometimes(5, 7)
    ),
}


def task_of(kind: str) -> tuple[Task, dict[str, Any], Any]:
    """A task, its held-out inputs by name, and its targets."""
    made, chance = KINDS[kind], np.random.default_rng(3)
    inputs, targets = made.inputs(chance), made.targets(chance)
    named = inputs if isinstance(inputs, dict) else {"inputs": inputs}
    tensors = {name: torch.from_numpy(values) for name, values in named.items()}
    examples = Examples.of(tensors if isinstance(inputs, dict) else tensors["inputs"], targets=targets)
    task = Task(
        name="small",
        objective=made.objective,
        student=made.network,
        device_data=lambda _device: examples,
        held_out=lambda: examples,
    )
    return task, named, targets


def exported(task: Task, folder: Path, *, version: int | None = 12) -> Path:
    """The ONNX file of a fresh student."""
    with seeded(5):
        network = task.student()
    layout = layout_of(network)
    model = ModelFile(
        task=task.name, layout=layout, weights=vector_of(network, layout), version=version, role="published-model"
    )
    return export(task, model, folder).onnx
