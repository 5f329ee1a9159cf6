"""The interface for tasks of one's own: `Task`, its data, its objective and its hyper-parameters (`Recipe`).

`tasks/loading.py` finds a task by name; `task_checks.py` has the checks and the errors.
"""

from device_client.task.batches import Batch, Forward, inputs_of, logits_in, outputs_of, targets_of
from device_client.task.definition import Task, scheduled
from device_client.task.examples import Data, Examples, check_split, pooled
from device_client.task.kinds import classification, multi_label, per_pixel, per_token, reconstruction, regression
from device_client.task.objective import Distillation, Loss, Metric, Objective
from device_client.task.recipe import Augment, AugmentBatch, MakeOptimiser, Method, Recipe, Schedule, TaskLoss
from device_client.task_checks import SplitError, TaskError

__all__ = [
    "Augment",
    "AugmentBatch",
    "Batch",
    "Data",
    "Distillation",
    "Examples",
    "Forward",
    "Loss",
    "MakeOptimiser",
    "Method",
    "Metric",
    "Objective",
    "Recipe",
    "Schedule",
    "SplitError",
    "Task",
    "TaskError",
    "TaskLoss",
    "check_split",
    "classification",
    "inputs_of",
    "logits_in",
    "multi_label",
    "outputs_of",
    "per_pixel",
    "per_token",
    "pooled",
    "reconstruction",
    "regression",
    "scheduled",
    "targets_of",
]
