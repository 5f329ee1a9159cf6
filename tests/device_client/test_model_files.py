"""A model file gives back what was written, in the order of the layout, and says in one line what is wrong with it."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from aggregator.initial_model import read_initial_model
from device_client.model_files import ModelFile, ModelFileError, read_model, write_model
from wire_contract.files.permissions import PRIVATE
from wire_contract.layout import Layout, TensorSpec, digest
from wire_contract.model_roles import STUDENTS, TEACHERS

# Not in the order of the alphabet, which is safetensors' own; one scalar, as of a learnable temperature.
LAYOUT = Layout((TensorSpec("z.weight", (2, 3)), TensorSpec("temperature", ()), TensorSpec("a.bias", (4,))))
MODEL = ModelFile(task="har", layout=LAYOUT, weights=np.arange(11, dtype=np.float32), version=7)


def test_order_task_and_version_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "model.safetensors"
    write_model(path, MODEL)
    found = read_model(path, task="har")
    assert (found.task, found.version, found.layout) == ("har", 7, LAYOUT)
    np.testing.assert_array_equal(found.weights, MODEL.weights)
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_the_aggregator_reads_the_same(tmp_path: Path) -> None:
    write_model(tmp_path / "m", replace(MODEL, role="published-model"))
    initial = read_initial_model(tmp_path / "m", task="har")
    assert (initial.layout, digest(initial.weights)) == (LAYOUT, digest(MODEL.weights))


shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@given(
    rows=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), shapes, max_size=5
    )
)
def test_any_layout_survives(tmp_path_factory: pytest.TempPathFactory, rows: dict[str, tuple[int, ...]]) -> None:
    layout = Layout(tuple(TensorSpec(name, shape) for name, shape in rows.items()))
    weights = np.random.default_rng(1).normal(size=layout.size).astype(np.float32)
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    write_model(path, ModelFile(task="t", layout=layout, weights=weights))
    found = read_model(path)
    assert (found.layout, found.version, digest(found.weights)) == (layout, None, digest(weights))


def put(path: Path, tensors: dict[str, Any], layout: Any, **metadata: str) -> None:
    safetensors.numpy.save_file(tensors, path, {"task": "har", "layout": json.dumps(layout), **metadata})


ONE = {"a": np.ones(2, dtype=np.float32)}


@pytest.mark.parametrize(
    ("tensors", "layout", "said"),
    [
        (ONE, [["a", [3]]], "do not match its metadata layout"),
        (ONE, [["b", [2]]], "do not match its metadata layout"),
        (ONE, [["a", [2]], ["b", [10**12]]], "do not match its metadata layout"),
        (ONE, [["a", [2]], ["a", [2]]], "stands twice"),
        (ONE, {"a": [2]}, "not a list"),
        (ONE, [["a"]], r"not \[name"),
        (ONE, [["a", ["2"]]], r"not \[name"),
        ({"a": np.ones(2, dtype=np.float16)}, [["a", [2]]], "float16, not float32"),
        ({"a": np.array([1, np.nan], dtype=np.float32)}, [["a", [2]]], "not finite"),
    ],
)
def test_what_is_not_a_model_is_said(tmp_path: Path, tensors: dict[str, Any], layout: Any, said: str) -> None:
    put(tmp_path / "m", tensors, layout)
    with pytest.raises(ModelFileError, match=said) as caught:
        read_model(tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "m") in str(caught.value)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        read_model(tmp_path / "missing")
    (tmp_path / "text").write_text("weights", encoding="utf-8")
    with pytest.raises(ModelFileError, match="text"):
        read_model(tmp_path / "text")
    with pytest.raises(ModelFileError):
        read_model(tmp_path)
    safetensors.numpy.save_file(ONE, tmp_path / "foreign")
    with pytest.raises(ModelFileError, match="metadata layout, task missing"):
        read_model(tmp_path / "foreign")
    write_model(tmp_path / "m", MODEL)
    with pytest.raises(ModelFileError, match="is of task 'har', not 'physiotherapy'"):
        read_model(tmp_path / "m", task="physiotherapy")


def test_a_changed_weight_is_seen_by_the_digest_and_files_without_one_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_model(path, MODEL)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="is damaged: its weights do not match its metadata digest"):
        read_model(path)
    put(path, ONE, [["a", [2]]])
    assert read_model(path).weights.tolist() == [1, 1]


def test_the_rounds_of_a_teacher_are_kept_and_a_private_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_model(path, replace(MODEL, version=None, rounds=12), mode=PRIVATE)
    assert (read_model(path).rounds, read_model(path).version) == (12, None)
    assert path.stat().st_mode & 0o777 == 0o600
    write_model(path, MODEL)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    write_model(path, MODEL)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelFileError, match="cannot be written: No space left on device"):
        write_model(path, ModelFile(task="other", layout=LAYOUT, weights=MODEL.weights))
    assert read_model(path).task == "har"
    assert list(tmp_path.iterdir()) == [path]


def test_the_role_is_kept_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_model(path, replace(MODEL, role="teacher"))
    assert read_model(path).role == "teacher"
    assert read_model(path, roles=TEACHERS).role == "teacher"
    with pytest.raises(ModelFileError, match="holds a teacher, not an initial model or a published model"):
        read_model(path, roles=STUDENTS)
    write_model(path, MODEL)
    assert read_model(path, roles=TEACHERS).role is None, "made before there were roles"


def test_a_role_of_a_newer_version_is_none_that_is_known(tmp_path: Path) -> None:
    put(tmp_path / "m", ONE, [["a", [2]]], role="mystery")
    assert read_model(tmp_path / "m").role is None
    with pytest.raises(ModelFileError, match="holds a 'mystery', not a teacher"):
        read_model(tmp_path / "m", roles=TEACHERS)
