"""Networks, data and optimisers that are unusual: they pass `check-task`, or their fault is one line."""

import json
from pathlib import Path

import pytest

from tests.device_client.trial.test_check_task import checked, written

CODE = """
from torch.utils.data import DataLoader, TensorDataset

class ExtraState(nn.Linear):
    def get_extra_state(self):
        return {"rounds": 3}

    def set_extra_state(self, state):
        pass

class Empty(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.nothing = nn.Parameter(torch.empty(0, 5))

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 3, sparse=True)

    def forward(self, tokens):
        return self.embedding(tokens).mean(1)

class Averaged(nn.Module):
    def __init__(self):
        super().__init__()
        self.trained = nn.Linear(3, 3)
        self.average = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, inputs):
        return (self.trained if self.training else self.average)(inputs)

class LeftOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.head(self.body(inputs))

    def state_dict(self, *arguments, **named):
        return {name: one for name, one in super().state_dict(*arguments, **named).items() if name != "body.weight"}

class Expanded(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.register_buffer("kernel", torch.ones(1).expand(3))

class Grows(nn.Linear):
    def forward(self, inputs):
        if not hasattr(self, "more"):
            self.more = nn.Linear(3, 3)
        return self.more(super().forward(inputs))

class Drawn(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.sign = float(np.random.default_rng().normal())

    def forward(self, inputs):
        return super().forward(inputs) * self.sign

class Counts(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, inputs):
        if self.training:
            self.steps += 1
        return super().forward(inputs) * (self.steps > 0)

class Large(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.register_buffer("start", torch.tensor(1.7e9))

class WithoutTargets:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.ones(3), None

def tokens(side):
    return Examples.of(np.arange(8).reshape(4, 2), LABELS, [side] * 4)

def scaled(by):
    return lambda side: Examples.of(by * np.random.default_rng(0).normal(size=(40, 3)), [0, 1] * 20, [side] * 40)

def lbfgs(groups):
    class LBFGS(torch.optim.SGD):
        def step(self, closure):
            pass
    return LBFGS(groups)
"""


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "changes",
    [
        "dict(student=lambda: ExtraState(3, 3))",
        "dict(student=Empty)",
        "dict(student=Tokens, device_data=tokens, held_out=lambda: tokens('held out'))",
        "dict(student=Averaged)",
        "dict(student=lambda: torch.jit.script(nn.Linear(3, 3)))",
    ],
)
def test_it_passes(changes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(written(tmp_path, changes, CODE)) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("dict(student=LeftOut)", "leaves out 'body.weight', which is trained and would never be sent"),
        ("dict(student=Expanded)", "kernel was made with expand(), so its numbers share memory"),
        ("dict(student=lambda: Grows(3, 3))", "its first pass adds or removes weights (more.bias, more.weight)"),
        ("dict(student=Drawn)", "compute different outputs with the same weights"),
        ("dict(device_data=lambda _: WithoutTargets())", "the first batch: the examples cannot be put into one batch"),
        (
            "dict(device_data=lambda _: DataLoader(TensorDataset(torch.ones(4, 3), torch.zeros(4)), batch_size=None))",
            "is it a DataLoader with batch_size=None?",
        ),
        ("dict(recipe=Recipe(optimiser=lbfgs))", "that compute the loss anew in each step (LBFGS, SAM) cannot be used"),
        ("dict(recipe=Recipe(optimiser=torch.optim.SGD([torch.ones(1)])))", "groups), not an instance of SGD"),
        ("dict(classes=('a', 'b\\udce9', 'c'))", r"classes has 'b\udce9', which holds half a character (a surrogate)"),
        (
            "dict(student=lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)), device_data=scaled(1e20))",
            "(0.running_var) are not finite after one step, because a square of its inputs is over the largest float32",
        ),
    ],
)
def test_its_fault_is_one_line(changes: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(written(tmp_path, changes, CODE)) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ("(lambda: ExtraState(3, 3))", "_extra_state (get_extra_state) is not sent"),
        ("Counts", "training changes steps, which is not sent"),
        ("Large", "start holds values over 65504, the largest float16"),
    ],
)
def test_what_works_only_in_part_is_a_note(
    student: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(written(tmp_path, f"dict(student={student})", CODE), "--json") == 0
    notes = [note for step in json.loads(capsys.readouterr().out)["steps"] for note in step["notes"]]
    assert [note for note in notes if note.startswith(said)], notes
