"""What the final model says of held-out films, and which of them are shown."""

from pathlib import Path

import numpy as np
import pytest
import torch

from device_client.learning.parameters import layout_of, vector_of
from device_client.scores.ranking import auc
from device_client.task import Examples, Task, classification, regression
from device_client.tasks.loading import load_task
from simulators.films.trial import Hospital, make_trial
from simulators.reporting.scores.measuring import scored_examples, seen_images
from simulators.reporting.scores.seen_images import SeenImage, seen_section
from tests.device_client.data.extras import extra

SIDE = 40


class Brightness(torch.nn.Module):
    """Says lesion of what is bright in its upper left corner."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(8.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = self.gain * (images[:, 0, 4:12, 4:12].mean(dim=(1, 2)) - 0.5)
        return torch.stack([-seen, seen], dim=1)


def images(count: int, seed: int) -> Examples:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = random.uniform(0.0, 0.2, (count, 1, SIDE, SIDE)).astype(np.float32)
    pixels[:, :, 4:12, 4:12] += (0.3 + 0.3 * labels + random.uniform(-0.2, 0.2, count))[:, None, None, None]
    persons = [f"{seed} {number // 2}" for number in range(count)]
    return Examples.of(pixels, labels, persons, attributes={"site": ["a", "a", "b", "b"] * (count // 4)})


def task_of(objective: object, held_out: Examples) -> Task:
    return Task(
        name="own",
        objective=objective,  # type: ignore[arg-type]
        student=Brightness,
        device_data=lambda _: images(4, 3),
        held_out=lambda: held_out,
        teacher=Brightness,
        teacher_data=lambda: images(40, 2),
    )


def weights_of(task: Task) -> np.ndarray:
    student = task.student()
    return vector_of(student, layout_of(student))


def test_the_second_class_is_scored_by_site_and_calibrated_on_the_teachers_data() -> None:
    held_out = images(40, 1)
    task = task_of(classification(("normal", "lesion"), main="auc"), held_out)
    scored = scored_examples(task, weights_of(task), held_out)
    assert scored is not None
    assert (scored.positive_name, scored.site_name, set(scored.sites.tolist())) == ("lesion", "hospital", {"a", "b"})
    assert scored.positive.tolist() == (held_out.labels == 1).tolist()
    with torch.no_grad():
        logits = Brightness()(held_out.inputs)
    assert auc(scored.probabilities, scored.positive) == pytest.approx(
        auc((logits[:, 1] - logits[:, 0]).numpy(), scored.positive)
    )
    assert scored.calibrated is not None
    order = np.argsort(scored.probabilities)
    assert (np.diff(scored.calibrated[order]) >= 0).all(), "a temperature keeps the order"
    assert not np.allclose(scored.calibrated, scored.probabilities)


def test_what_ranks_no_side_is_not_scored() -> None:
    held_out = images(8, 1)
    for objective in (classification(("a", "b")), classification(("a", "b", "c"), main="auc"), regression()):
        task = task_of(objective, held_out)
        assert scored_examples(task, weights_of(task), held_out) is None


def test_images_show_where_the_model_looks() -> None:
    held_out = images(40, 1)
    task = task_of(classification(("normal", "lesion"), main="auc"), held_out)
    weights = weights_of(task)
    scored = scored_examples(task, weights, held_out)
    assert scored is not None
    rows = [(held_out.inputs[index], held_out.labels[index]) for index in range(40)]
    seen = seen_images(task, weights, rows, scored)
    assert [image.label for image in seen] == ["lesion", "lesion", "lesion", "lesion", "normal", "normal"]
    assert seen[0].answer == scored.probabilities[scored.positive].max()
    assert seen[-2].answer == scored.probabilities[~scored.positive].max()
    for image in seen:
        assert image.matters.max() == pytest.approx(1.0)
        assert image.matters[:8, :8].min() > image.matters[-8:, -8:].max()


def test_the_section_embeds_each_image_twice_and_escapes_names() -> None:
    image = SeenImage(
        pixels=np.zeros((6, 4), np.float32),
        matters=np.ones((6, 4), np.float32),
        label="<i>normal",
        answer=0.25,
        asked="lesion",
        what="missed & more",
    )
    section = seen_section([image])
    assert section.count("data:image/png;base64,") == 2
    assert "missed &amp; more" in section
    assert "<i>normal" not in section
    assert "lesion 25%" in section


def test_films_of_a_trial_are_scored_by_hospital(tmp_path: Path) -> None:
    extra("pydicom")
    hospitals = (Hospital(name="north", patients=1, tested=2), Hospital(name="south", patients=1, tested=2))
    make_trial(tmp_path, hospitals=hospitals, teachers=Hospital(name="screening", patients=2, tested=0), rows=120)
    task = load_task("mammography", data=tmp_path)
    held_out = task.held_out()
    scored = scored_examples(task, weights_of(task), held_out)
    assert scored is not None
    assert sorted(scored.sites.tolist()) == ["north"] * 8 + ["south"] * 8
    assert len(set(scored.persons.tolist())) == 4
