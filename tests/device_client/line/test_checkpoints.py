"""Weights saved by other programs as an initial model or teacher: what is taken, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from device_client.__main__ import main
from device_client.commands.checkpoints import is_own_file, load_checkpoint
from device_client.learning.parameters import layout_of, vector_of
from device_client.model_files import ModelFileError, read_model
from tests.device_client.line.test_labels import TWO, complaint

State = dict[str, Tensor]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


def loaded(path: Path, target: nn.Module | None = None) -> nn.Module:
    target = network(1) if target is None else target
    take(path, target)
    return target


def take(path: Path, target: nn.Module) -> None:
    """As `initial-model --weights` does."""
    assert not is_own_file(path)
    load_checkpoint(path, target, what="student of task two")


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def refused(path: Path, target: nn.Module | None = None) -> str:
    target = network(1) if target is None else target
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(ModelFileError) as error:
        take(path, target)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items()), "nothing was copied"
    said = str(error.value)
    assert "\n" not in said
    assert str(path) in said
    return said


WRAPPED: dict[str, Callable[[State], Any]] = {
    "state dict": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "DataParallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compiled, parallel": lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
    "half": lambda state: {name: tensor.half().double() for name, tensor in state.items()},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("old", [False, True], ids=["zip", "old form"])
def test_a_state_dict_of_torch_is_taken(tmp_path: Path, wrap: Callable[[State], Any], *, old: bool) -> None:
    source, path = network(), tmp_path / "weights.pt"
    torch.save(wrap(source.state_dict()), path, _use_new_zipfile_serialization=not old)
    found = loaded(path)
    if wrap is WRAPPED["half"]:
        assert same(found.half(), source.half())
    else:
        assert same(found, source)


def test_plain_safetensors_are_taken(tmp_path: Path) -> None:
    source, path = network(), tmp_path / "weights.safetensors"
    safetensors.torch.save_file(source.state_dict(), path, metadata={"format": "pt"})
    assert same(loaded(path), source)


def test_safetensors_that_begin_like_a_pickle_are_taken(tmp_path: Path) -> None:
    """The length of a header of 640 bytes begins with the bytes 80 02."""
    source, path = network(), tmp_path / "weights.safetensors"
    safetensors.torch.save_file(source.state_dict(), path, metadata={"a": ""})
    missing = 640 - int.from_bytes(path.read_bytes()[:8], "little")
    safetensors.torch.save_file(source.state_dict(), path, metadata={"a": "x" * missing})
    assert path.read_bytes().startswith(b"\x80\x02")
    assert same(loaded(path), source)


def test_of_tied_weights_one_is_enough(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    source, path = Tied(), tmp_path / "weights.safetensors"
    safetensors.torch.save_model(source, str(path))
    assert same(loaded(path, Tied()), source)


def test_running_statistics_come_along(tmp_path: Path) -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    source, path = normed(), tmp_path / "weights.pt"
    source(torch.randn(50, 4) * 3 + 2)
    torch.save(source.state_dict(), path)
    found = loaded(path, normed())
    layout = layout_of(found)
    assert vector_of(found, layout).tobytes() == vector_of(source, layout).tobytes()
    assert not np.array_equal(vector_of(normed(), layout), vector_of(source, layout))
    without = {name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name}
    torch.save(without, path)
    loaded(path, normed())


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = network().state_dict()
    torch.save({**state, "2.weight": torch.zeros(1000, 8), "extra": torch.zeros(2)}, path)
    said = refused(path)
    assert "2.weight is (1000, 8) in the file and (4, 8) here; only in the file: extra" in said
    assert "let the task's constructor load that part" in said
    torch.save({name: tensor for name, tensor in state.items() if name != "0.bias"}, path)
    assert "only here: 0.bias" in refused(path)


def test_values_that_are_not_finite_or_no_floats_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = network().state_dict()
    torch.save({**state, "0.bias": torch.full((8,), torch.nan)}, path)
    assert "tensor 0.bias has values that are not finite" in refused(path)
    torch.save({**state, "0.bias": torch.full((8,), 1e300, dtype=torch.float64)}, path)
    assert "tensor 0.bias has values that are not finite as torch.float32" in refused(path)
    torch.save({**state, "0.bias": torch.ones(8, dtype=torch.int64)}, path)
    assert "tensor 0.bias is torch.int64" in refused(path)


class Permuting(nn.Module):
    def __init__(self, chosen: Tensor) -> None:
        super().__init__()
        self.register_buffer("chosen", chosen)
        self.register_buffer("angles", torch.ones(3), persistent=False)
        self.net = nn.Linear(4, 2)


def test_fixed_buffers_of_the_file_must_be_those_of_the_network(tmp_path: Path) -> None:
    path, source = tmp_path / "weights.pt", Permuting(torch.arange(4))
    torch.save({**source.state_dict(), "angles": torch.ones(3)}, path)
    assert same(loaded(path, Permuting(torch.arange(4))), source)
    said = refused(path, Permuting(torch.arange(4).flip(0)))
    assert "buffer chosen has other values in the file than in the student of task two" in said
    torch.save({**source.state_dict(), "angles": torch.zeros(3)}, path)
    assert "buffer angles has other values" in refused(path, Permuting(torch.arange(4)))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": network().state_dict(), "more": Harmful()}, path)
    assert "it contains Python objects" in refused(path)
    assert not (tmp_path / "harm").exists()


def test_a_pickled_network_is_refused_with_what_to_save(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.save(network(), path)
    said = refused(path)
    assert "torch.nn.modules.container.Sequential" in said
    assert "torch.save(network.state_dict(), 'weights.pt')" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither a safetensors file nor a state dict"),
        (b"text", "neither a safetensors file nor a state dict"),
        (b"PK\x03\x04 and nothing", "torch cannot read it"),
        (b"\x80\x02", "torch cannot read it"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content)
    assert said in refused(path)


def test_what_holds_no_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, "loss": 0.1}, path)
    assert "it holds no state dict, but epoch, loss" in refused(path)
    torch.save(3, path)
    assert "it holds no state dict, but int" in refused(path)
    assert "No such file" in refused(tmp_path / "missing")


# The commands


def test_a_checkpoint_becomes_an_initial_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, out = tmp_path / "weights.pt", tmp_path / "initial"
    torch.save({"state_dict": network(7).state_dict()}, path)
    command = ("initial-model", "--task", f"{TWO}:a", "--weights", str(path), "--out")
    assert main([*command, str(out)]) == 0
    found = read_model(out)
    assert found.role == "initial-model"
    assert found.line is not None
    assert found.weights.tobytes() == vector_of(network(7), found.layout).tobytes()
    torch.save(nn.Linear(16, 4).state_dict(), path)
    assert "does not fit the student of task two: only in the file: weight, bias; only here" in complaint(
        capsys, *command, str(tmp_path / "other")
    )


def test_a_checkpoint_becomes_a_teacher(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "teacher.pt"
    torch.save(nn.Linear(16, 5).state_dict(), path)
    device = ("--broker", "mqtt://localhost:1", "--device", "d", "--state", str(tmp_path / "state"))
    command = ("run", "--task", f"{TWO}:a", *device, "--teacher", str(path))
    assert "does not fit the teacher of task two: weight is (5, 16) in the file and (4, 16) here" in complaint(
        capsys, *command
    )
    torch.save(nn.Linear(16, 4).state_dict(), path)
    approval = tmp_path / "approval"  # whatever comes after the teacher ends the command
    approval.mkdir()
    assert "approval" in complaint(capsys, *command, "--health-file", str(approval))


def test_an_initial_model_of_other_weights_is_not_overwritten(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "initial"
    command = ("initial-model", "--task", f"{TWO}:a", "--out", str(out))
    assert main(command) == 0
    before = out.read_bytes()
    assert main(command) == 0, "the same again"
    assert out.read_bytes() == before
    assert "exists, with other weights or labels" in complaint(capsys, *command, "--seed", "1")
    sorted_ = ("initial-model", "--task", f"{TWO}:sorted_", "--out", str(out))
    assert "exists, with other weights or labels" in complaint(capsys, *sorted_)
    assert out.read_bytes() == before
    out.write_text("something else")
    assert "it is not overwritten" in complaint(capsys, *command)


LIMITS = """
import dataclasses, torch
from torch import nn
from tests.device_client.line import two
WIDE = 1_000_000

def big():
    return dataclasses.replace(two.a(), student=lambda: nn.Sequential(nn.Linear(16, WIDE), nn.Linear(WIDE, 4)))

def many():
    return dataclasses.replace(two.a(), student=lambda: nn.Sequential(*[nn.Linear(1, 1) for _ in range(600)]))

def without_data():
    return dataclasses.replace(two.a(), teacher_data=None, teacher_source="https://models.example/teacher.pt")

def silent():
    return dataclasses.replace(two.a(), teacher_data=None)
"""


@pytest.fixture
def limits(tmp_path: Path) -> str:
    path = tmp_path / "limits.py"
    path.write_text(LIMITS)
    return str(path)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("big", "student has 21,000,004 numbers, the most of them (16,000,000) in 0.weight; up to 16,000,000"),
        ("many", "student has 1,200 tensors; up to 1,024 can be published"),
    ],
)
def test_a_student_that_cannot_be_published_is_told_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, limits: str, task: str, said: str
) -> None:
    out = tmp_path / "initial"
    assert said in complaint(capsys, "initial-model", "--task", f"{limits}:{task}", "--out", str(out))
    assert not out.exists()


def test_a_task_without_data_for_its_teacher_says_where_it_comes_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, limits: str
) -> None:
    device = ("--broker", "mqtt://localhost:1", "--device", "d", "--state", str(tmp_path / "state"))
    for command in (("run", *device), ("pretrain-teacher", "--out", str(tmp_path / "out"))):
        name, *flags = command
        told = complaint(capsys, name, "--task", f"{limits}:without_data", *flags)
        assert "which comes from: https://models.example/teacher.pt" in told
        assert "--teacher FILE" in told
        assert "teacher_source" in complaint(capsys, name, "--task", f"{limits}:silent", *flags)
