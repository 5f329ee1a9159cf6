"""What the final model says of the held-out examples: for ROC curve, calibration, and a table by site."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from device_client.learning.parameters import layout_of, load_vector
from device_client.scores.calibration import fitted_temperature, log_softmax
from device_client.task import Data, Task, logits_in, targets_of
from device_client.task.batching import evaluation_batches
from device_client.task.objective import Objective
from simulators.reporting.nouns import nouns_of
from simulators.reporting.scores.scored_examples import ScoredExamples
from simulators.reporting.scores.seen_images import SeenImage
from wire_contract.layout import Vector

_BATCH = 64
_COVER, _STEP = 24, 8
"""Side of the square that is covered, and by how much it moves, pixels. Chosen: a finding fits into it."""
_SURROUNDINGS = 31


@dataclass(frozen=True, kw_only=True)
class _Answers:
    logits: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]


def scored_examples(task: Task, weights: Vector, held_out: Data) -> ScoredExamples | None:
    """The probabilities of the positive side; None where the objective ranks no one side, or persons are unknown.

    They are also given after temperature scaling, if the teacher has data of its own, which the student was not trained
    on.
    """
    side = _positive(task.objective)
    persons = getattr(held_out, "persons", None)
    if side is None or persons is None:
        return None
    student = student_of(task, weights)
    answers = _answers(task, student, held_out)
    sites = getattr(held_out, "attributes", {}).get("site", np.full(len(persons), "all"))
    calibrated = None
    if task.teacher_data is not None:
        other = _answers(task, student, task.teacher_data())
        calibrated = _probabilities(answers.logits / fitted_temperature(other.logits, other.labels), side)
    assert task.objective.ranking is not None
    return ScoredExamples(
        probabilities=_probabilities(answers.logits, side),
        positive=np.isin(answers.labels, side),
        persons=np.asarray(persons),
        sites=np.asarray(sites, dtype=np.str_),
        positive_name=" or ".join(task.labels[index] for index in side),
        site_name="hospital" if len(set(sites.tolist())) > 1 else "site",
        nouns=nouns_of(task.name),
        specificity=task.objective.ranking.specificity,
        calibrated=calibrated,
    )


def student_of(task: Task, weights: Vector) -> nn.Module:
    """The student with these weights, for evaluation."""
    student = task.student()
    load_vector(student, layout_of(student, task.recipe.statistics), weights)
    return student.eval()


def seen_images(task: Task, weights: Vector, held_out: Any, scored: ScoredExamples) -> list[SeenImage]:
    """Six images (1, row, column): the surest of those found, missed, called wrongly and rightly negative."""
    student, name = student_of(task, weights), scored.positive_name
    side = _positive(task.objective)
    assert side is not None
    order, chosen = np.argsort(-scored.probabilities), []
    positive = [int(index) for index in order if scored.positive[index]]
    negative = [int(index) for index in order if not scored.positive[index]]
    middle = positive[len(positive) // 2 : len(positive) // 2 + 1]
    for what, indices in (
        ("found, the surest", positive[:1]),
        ("found, in the middle", middle),
        ("the least sure", positive[-2:]),
        ("the surest false alarm", negative[:1]),
        ("nothing seen", negative[-1:]),
    ):
        chosen += [(what, index) for index in indices]
    found = []
    for what, index in chosen:
        image, label = held_out[index]
        found.append(
            SeenImage(
                pixels=image[0].numpy(),
                matters=_matters(student, image, side),
                label=task.labels[int(label)],
                answer=float(scored.probabilities[index]),
                asked=name,
                what=what,
            )
        )
    return found


def _matters(student: nn.Module, image: Tensor, side: list[int]) -> npt.NDArray[np.float32]:
    """How much the log-odds change where a square is replaced by the mean of its surroundings; 0 to 1.

    Occlusion sensitivity, Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks",
    arXiv:1311.2901, section 4.2; covered with surroundings instead of grey, which would be a finding itself.
    """
    around = functional.avg_pool2d(image[None], _SURROUNDINGS, 1, _SURROUNDINGS // 2, count_include_pad=False)[0]
    height, width = image.shape[1:]
    places = [
        (top, left) for top in range(0, height - _COVER + 1, _STEP) for left in range(0, width - _COVER + 1, _STEP)
    ]
    change, covered = torch.zeros(height, width), torch.zeros(height, width)

    def batches() -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
        for start in range(0, len(places), _BATCH):
            part = places[start : start + _BATCH]
            images = image[None].repeat(len(part), 1, 1, 1)
            for row, (top, left) in enumerate(part):
                area = (slice(None), slice(top, top + _COVER), slice(left, left + _COVER))
                images[row][area] = around[area]
            yield part, images

    with torch.no_grad():
        whole = _log_odds(student(image[None]), side)
        for part, images in batches():
            for (top, left), odds in zip(part, _log_odds(student(images), side), strict=True):
                change[top : top + _COVER, left : left + _COVER] += (whole[0] - odds).abs()
                covered[top : top + _COVER, left : left + _COVER] += 1
    mean = change / covered.clamp_min(1)
    return np.asarray((mean / mean.max().clamp_min(1e-6)).numpy(), dtype=np.float32)


def _log_odds(outputs: Any, side: list[int]) -> Tensor:
    chances = logits_in(outputs).softmax(dim=1)[:, side].sum(dim=1).clamp(1e-6, 1 - 1e-6)
    return torch.log(chances / (1 - chances))


def _positive(objective: Objective) -> list[int] | None:
    """The classes that are ranked against the rest; None: there is no such side."""
    if objective.ranking is None:
        return None
    if objective.ranking.positive:
        return [objective.labels.index(name) for name in objective.ranking.positive]
    return [1] if len(objective.labels) == 2 else None  # noqa: PLR2004 — two classes: the second is positive


def _answers(task: Task, student: nn.Module, data: Data) -> _Answers:
    logits, labels = [], []
    with torch.no_grad():
        for batch in evaluation_batches(data, _BATCH):
            outputs = task.objective.forward(student, batch)
            logits.append(logits_in(outputs).double())
            labels.append(targets_of(batch).long())
    return _Answers(logits=torch.cat(logits).numpy(), labels=torch.cat(labels).numpy())


def _probabilities(logits: npt.NDArray[np.float64], side: list[int]) -> npt.NDArray[np.float64]:
    chances = np.exp(log_softmax(logits))[:, side].sum(axis=1)
    return np.asarray(np.minimum(chances, 1.0), dtype=np.float64)
