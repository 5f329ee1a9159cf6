"""`check-task` and `run` name the first fault of a task in one line; check-task also notes what is doubtful."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_client.__main__ import main

OWN = """
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from device_client.task import Examples, Objective, Recipe, Task, logits_in, regression, targets_of

LABELS = [0, 1, 2, 1]
PERSONS = {{}}

def examples(side, labels=None, columns=3):
    inputs = np.random.default_rng(len(side)).standard_normal((len(labels or LABELS), columns))
    return Examples.of(inputs, labels or LABELS, [PERSONS.get(side, side)] * len(inputs))

def fields():
    return dict(
        name="own",
        classes=("a", "b", "c"),
        student=lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)),
        device_data=examples,
        held_out=lambda: examples("held out"),
        devices=("d1", "d2"),
    )

{code}

def task():
    return Task(**fields() | changes())
"""


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Commands handle signals in their own way."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def written(folder: Path, changes: str, code: str = "") -> str:
    path = folder / "own.py"
    path.write_text(OWN.format(code=f"{code}\ndef changes():\n    return {changes}"), encoding="utf-8")
    return f"{path}:task"


def checked(spec: str, *flags: str) -> int:
    return main(["check-task", "--task", spec, "--skip-onnx", *flags])


def started(spec: str, folder: Path, *flags: str) -> int:
    """Starts a device; a fault ends it before it connects."""
    broker = ["--broker", "mqtt://localhost:1", "--device", "d1", "--state", str(folder / "state")]
    return main(["run", "--task", spec, *broker, *flags])


TINY_LABELS = "dict(device_data=lambda device: examples(device, {labels}))"
OWN_LOSS = (
    "dict(classes=(), objective=Objective(loss={loss}, main='mae', higher_is_better=False, "
    "metrics=lambda: {{'mae': lambda predictions, targets: float((predictions.argmax(1) != targets).float().mean())}}))"
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (TINY_LABELS.format(labels="[0, 7, 1, 1]"), "1 of 4 labels have no class, the first is 7 at index 1"),
        (TINY_LABELS.format(labels="[1, 2, 3, 1]"), "labels start at 0, and these start at 1: subtract 1"),
        (TINY_LABELS.format(labels="[0, -1, 1, 1]"), "1 of 4 labels are negative"),
        (TINY_LABELS.format(labels="[0, float('nan'), 1, 1]"), "1 of 4 labels are NaN or infinite"),
        (TINY_LABELS.format(labels="[0, 0.7, 1, 1]"), "1 of 4 labels are no whole numbers, the first is 0.7"),
        (TINY_LABELS.format(labels="['a', 'b', 'c', 'a']"), "the index of each example's class"),
        ("dict(device_data=lambda _: Examples.of([[float('nan')] * 3] * 4, LABELS))", "4 of 4 inputs hold NaN"),
        ("dict(device_data=lambda _: (np.ones((4, 3)), LABELS))", "returned tuple, not Examples"),
        ("dict(device_data=lambda _: Examples.of(np.ones((3, 3)), LABELS))", "3 inputs for 4 labels"),
        ("dict(student=lambda: nn.Linear(5, 3))", "mat1 and mat2 shapes cannot be multiplied"),
        ("dict(student=lambda: nn.Linear(3, 4))", "returned shape (2, 4) for 2 examples; it must be logits (2, 3)"),
        ("dict(student=lambda: nn.LazyLinear(3))", "the size of weight is not known (lazy module)"),
        ("dict(student=lambda: nn.Linear(3, 3, dtype=torch.complex64))", "is torch.complex64, and only real numbers"),
        ("dict(student=lambda: nn.Linear(3, 3).requires_grad_(False))", "all its parameters are frozen"),
        ("dict(student=nn.Linear(3, 3))", "student must be a function, such as student=lambda: Network()"),
        ("dict(recipe=Recipe(schedule='cosin'))", "did you mean 'cosine'?"),
        ("dict(recipe=Recipe(alpha=2))", "alpha=2 must be a number, at least 0 and at most 1"),
        ("dict(recipe=Recipe(epochs=0))", "epochs=0 must be a whole number of at least 1"),
        ("dict(classes=('a', 'b', 'a'))", "classes has a more than once"),
        ("dict(classes=('a', 'b'))", "labels have no class"),
        (
            OWN_LOSS.format(loss="lambda outputs, batch: (outputs - 1) ** 2"),
            "returned a tensor (2, 3); it must be a scalar tensor, the mean over the batch",
        ),
        (
            OWN_LOSS.format(loss="lambda outputs, batch: outputs.detach().sum()"),
            "loss has no gradient, so nothing can be learned",
        ),
        (
            OWN_LOSS.format(loss="lambda outputs, batch: (outputs * 0).log().sum()"),
            "loss is -inf for the first examples; it must be finite",
        ),
        (OWN_LOSS.format(loss="lambda outputs, batch: batch['x']"), "TypeError: tuple indices must be integers"),
        ("dict(recipe=Recipe(optimiser=lambda groups: 3))", "recipe: optimiser returned int"),
    ],
)
def test_a_fault_is_one_line_in_both(
    changes: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = written(tmp_path, changes)
    for act in (lambda: checked(spec), lambda: started(spec, tmp_path)):
        code, shown = act(), capsys.readouterr().err
        assert (code, shown.count("\n")) == (2, 1), shown
        assert said in shown


ROWS = """
class Rows(torch.utils.data.Dataset):
    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.inputs[index], self.labels[index]
"""


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("torch.ones(4, 3), [0, 7, 1, 1]", "the first batch: 1 of 4 labels have no class, the first is 7 at index 1"),
        ("torch.full((4, 3), float('nan')), LABELS", "the first batch: inputs hold NaN or infinite values"),
        ("[None] * 4, LABELS", "the first batch: the examples cannot be put into one batch"),
    ],
)
def test_the_first_batch_of_a_data_set_is_checked_in_both(
    rows: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = written(tmp_path, f"dict(device_data=lambda _: Rows({rows}))", ROWS)
    for act in (lambda: checked(spec), lambda: started(spec, tmp_path)):
        code, shown = act(), capsys.readouterr().err
        assert (code, shown.count("\n")) == (2, 1), shown
        assert said in shown


BATCH_NORM = "dict(student=lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), {})"
RANDOM = """
class Noise(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.register_buffer("noise", torch.tensor(np.random.default_rng().normal(size=3)), persistent=False)

class OnlyInTraining(nn.Linear):
    def forward(self, inputs):
        if self.training:
            raise ValueError("not now")
        return super().forward(inputs)
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            BATCH_NORM.format("device_data=lambda device: examples(device, [1] if device == 'd2' else LABELS)"),
            "the loss of d2's last batch, of 1 failed: ValueError: Expected more than 1 value per channel",
        ),
        (
            "dict(device_data=lambda device: examples(device, columns=4 if device == 'd2' else 3))",
            "shape (4,) for each example in device_data('d2'), but (3,) in device_data('d1')",
        ),
        ("dict(held_out=lambda: examples('d2'))", "person d2 is in both the device and the held-out data"),
        ("dict(teacher_data=lambda: examples('d2'))", "person d2 is in both the device and the teacher data"),
        ("dict(student=lambda: Noise())", "student(): buffer noise differs between two constructions under one seed"),
        ("dict(student=lambda: OnlyInTraining(3, 3))", "own.py:"),
        ("dict(devices=())", "lists no devices, so give the name of one: --device NAME"),
    ],
)
def test_what_a_single_device_cannot_see(
    changes: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(written(tmp_path, changes, RANDOM)) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_a_student_beyond_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from device_client.trial import network_steps  # noqa: PLC0415
    from wire_contract.limits import Limits  # noqa: PLC0415

    monkeypatch.setattr(network_steps, "UPDATE_LIMITS", Limits(elements=30))
    assert checked(written(tmp_path, "{}")) == 2
    assert "it has 31 numbers, and a message holds 30; make it smaller" in capsys.readouterr().err


IDLE = """
class Idle(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.unused = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.tensor(float(np.random.default_rng().normal())))

    def forward(self, inputs):
        return super().forward(inputs) * self.scale
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("dict(student=Idle)", "unused.weight, unused.bias get no gradient, so nothing is learned there"),
        ("dict(student=Idle)", "its weights differ between two constructions under one seed"),
        (
            "dict(classes=('a', 'b', 'c', 'd'), student=lambda: nn.Linear(3, 4))",
            "none of the 2 devices",
        ),
        (
            "dict(device_data=lambda device: examples(device, [1] if device == 'd2' else LABELS))",
            "d2: one example only",
        ),
        ("dict(held_out=lambda: Examples.of(np.ones((4, 3)), LABELS))", "persons are not given"),
        ("dict(teacher=lambda: nn.Linear(3, 3))", "the task has a teacher and no teacher_data"),
        (
            "dict(device_data=lambda device: Examples.of(1e3 + np.eye(4, 3), LABELS, [device] * 4))",
            "inputs lie far from zero: the mean of channel 2 is 2,310 standard deviations",
        ),
        ("dict(recipe=Recipe(learning_rate=0))", "one step changes no weight; is the learning rate 0?"),
    ],
)
def test_what_is_doubtful_is_a_note(
    changes: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(written(tmp_path, changes, IDLE), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    notes = [note for step in shown["steps"] for note in step["notes"]]
    assert [note for note in notes if said in note], notes


def test_a_teacher_that_is_no_better_than_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = "dict(teacher=lambda: nn.Linear(3, 3), teacher_data=lambda: examples('t'), recipe=Recipe({}))"
    spec = written(tmp_path, changes.format("teacher_learning_rate=0"))
    teacher = ["--teacher", str(tmp_path / "teacher.safetensors")]
    assert main(["pretrain-teacher", "--task", spec, "--out", teacher[1], "--epochs", "1"]) == 0
    capsys.readouterr()
    assert checked(spec, "--json", *teacher) == 0
    step = {one["name"]: one for one in json.loads(capsys.readouterr().out)["steps"]}["teacher"]
    assert "accuracy" in step["line"]
    assert ("no better than 0.333 by chance" in " ".join(step["notes"])) == (float(step["line"].split()[3]) <= 1 / 3)
    assert checked(written(tmp_path, "{}"), *teacher) == 2
    assert "task own has no teacher; leave out --teacher" in capsys.readouterr().err


def test_a_sound_task_passes_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = (
        "dict(classes=(), objective=regression(('x',)), student=lambda: nn.Linear(3, 1), "
        "device_data=lambda d: Examples.of(np.ones((40, 3)), targets=np.ones((40, 1)), persons=[d] * 40), "
        "held_out=lambda: Examples.of(np.ones((4, 3)), targets=np.arange(4.0)[:, None], persons=['h'] * 4))"
    )
    assert main(["check-task", "--task", written(tmp_path, changes)]) == 0
    shown = capsys.readouterr()
    lines = [line for line in shown.out.splitlines() if line.startswith("ok ")]
    assert [line[6:22].strip() for line in lines] == [
        "student",
        "device data",
        "held-out data",
        "teacher's data",
        "split",
        "teacher",
        "forward pass",
        "loss",
        "training",
        "updates",
        "merge",
        "evaluation",
        "export",
    ]
    assert "task own is ready to run" in shown.out
    assert "note:" not in shown.out


def test_a_network_that_onnx_cannot_hold_may_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = """
class Undecided(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs if inputs.sum() > 0 else -inputs)
"""
    spec = written(tmp_path, "dict(student=lambda: Undecided(3, 3))", code)
    assert main(["check-task", "--task", spec]) == 2
    shown = capsys.readouterr()
    assert "fault export" in shown.out
    assert "a decision (if, while, bool(), item()) depends on the values in a tensor" in shown.err
    assert "give --skip-onnx" in shown.err
    assert checked(spec) == 0


def test_debug_prints_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = written(tmp_path, "dict(device_data=lambda _: 1 / 0)")
    assert checked(spec, "--debug") == 2
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.splitlines()[-1].startswith("device_client: task own: device_data('d1') failed: ZeroDivisionError")
