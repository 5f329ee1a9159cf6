"""What a new line begins with, and what is refused as such."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aggregator.initial_model import InitialModelError, read_initial_model
from aggregator.ledger.ledger import Ledger
from tests.aggregator.commands.lines import run_line
from tests.aggregator.synthetic import (
    CHUNKED,
    LAYOUT,
    TASK,
    begin,
    initial_weights,
    write_initial_model,
)


def test_a_new_ledger_needs_an_initial_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert "asyncfedkd device initial-model --task toy" in run_line(capsys)


def test_an_initial_model_of_another_layout_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(Path("ledger.sqlite3"), task=TASK) as ledger:
        begin(ledger)
    write_initial_model(Path("other"), CHUNKED)
    assert "its layout is not the one of ledger" in run_line(capsys, "--initial-model", "other")


def test_an_initial_model_comes_back_in_the_order_of_its_layout(tmp_path: Path) -> None:
    initial = read_initial_model(write_initial_model(tmp_path / "m"), task=TASK)
    assert initial.layout == LAYOUT
    assert initial.weights.tobytes() == initial_weights().tobytes()


def model_file(path: Path, metadata: dict[str, str], **tensors: np.ndarray) -> Path:
    student = {"role": "initial-model", **metadata}
    save_file(tensors or {"a": np.zeros(2, dtype=np.float32)}, path, metadata=student)
    return path


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (None, "its metadata has no layout"),
        ("", "truncated"),
        ("nonsense", "malformed"),
        ("{}", "Expected `array`"),
        ('[["a"]]', "length"),
        ('[["a", ["2"]]]', "Expected `int`"),
        ('[["a", [2.5]]]', "Expected `int`"),
        ('[["a", [0]]]', "empty shape"),
        ('[["a", [3]]]', "has shape"),
        ('[["b", [2]]]', "missing tensors"),
        ('[["a", [2]], ["a", [2]]]', "stands twice"),
        ('[["a", [1000000000000]]]', "can be published"),
        ('[["a", [2, 99999999999999999999]]]', "can be published"),
        ('[["a", [1, 1, 1, 1, 1, 1, 1, 1, 2]]]', "length <= 8"),
        ("[]", "can be published"),
        ("[" * 100_000, "got `array`"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(tmp_path: Path, layout: str | None, said: str) -> None:
    path = model_file(tmp_path / "m", {"task": TASK} | ({} if layout is None else {"layout": layout}))
    with pytest.raises(InitialModelError, match=said) as caught:
        read_initial_model(path, task=TASK)
    assert "make one with: asyncfedkd device initial-model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_initial_model(tmp_path: Path) -> None:
    good = '[["a", [2]]]'
    bad = {"a": np.array([1, np.nan], dtype=np.float32)}
    large = {"a": np.array([1, 1e300])}
    garbage, huge = tmp_path / "garbage", tmp_path / "huge"
    garbage.write_bytes(b"nonsense" * 9)
    huge.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    for path, said in (
        (tmp_path / "missing", "there is no such file"),
        (tmp_path, "there is no such file"),
        (garbage, "make one with"),
        (huge, "make one with"),
        (model_file(tmp_path / "task", {"task": "other", "layout": good}), "is for task 'other', not 'toy'"),
        (model_file(tmp_path / "nan", {"task": TASK, "layout": good}, **bad), "not finite"),
        (model_file(tmp_path / "f64", {"task": TASK, "layout": good}, **large), "not finite"),
    ):
        with pytest.raises(InitialModelError, match=said) as caught:
            read_initial_model(path, task=TASK)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_an_initial_model_that_may_not_be_read_is_not_said_to_be_missing(tmp_path: Path) -> None:
    path = write_initial_model(tmp_path / "m")
    path.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o055 == 0o055:
            break  # as are all above it
        folder.chmod(0o755)
    os.seteuid(65_534)
    try:
        with pytest.raises(InitialModelError, match="Permission denied"):
            read_initial_model(path, task=TASK)
    finally:
        os.seteuid(0)


def test_a_model_that_float16_cannot_hold_is_refused_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {"a": np.array([1, 70_000], dtype=np.float32)}
    model_file(Path("m"), {"task": TASK, "layout": '[["a", [2]]]'}, **tensors)
    assert "over the largest float16" in run_line(capsys, "--initial-model", "m")


@pytest.mark.parametrize("role", ["teacher", "local-teacher", "something newer", None])
def test_a_line_is_begun_only_from_a_file_that_says_it_holds_a_student(
    capsys: pytest.CaptureFixture[str], role: str | None
) -> None:
    write_initial_model(Path("m"), role=role)
    said = run_line(capsys, "--initial-model", "m")
    assert ("does not say that it holds a student" if role is None else "not an initial model") in said
    assert "asyncfedkd device initial-model --task toy" in said
    with Ledger(Path("ledger.sqlite3"), task=TASK) as ledger:
        assert ledger.layout() is None, "nothing was begun"


def test_a_file_without_a_role_does_for_a_line_that_stands_and_a_teacher_does_not() -> None:
    read_initial_model(write_initial_model(Path("m"), role=None), task=TASK, is_published=False)
    with pytest.raises(InitialModelError, match="holds a teacher, not an initial model or a published model"):
        read_initial_model(write_initial_model(Path("m"), role="teacher"), task=TASK, is_published=False)


def test_a_line_may_begin_from_an_exported_model(tmp_path: Path) -> None:
    read_initial_model(write_initial_model(tmp_path / "m", role="published-model"), task=TASK)
