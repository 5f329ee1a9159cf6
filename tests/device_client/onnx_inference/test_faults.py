"""What is wrong with an ONNX model or a file of examples is one line, and exit code 2."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from device_client.__main__ import main
from device_client.onnx_inference.example_files import read_examples
from device_client.onnx_inference.exported_model import ExportedModel, OnnxModelError
from tests.device_client.onnx_inference.exported import COUNT, LABELS, exported, task_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(task_of("classification")[0], tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(task_of("two inputs")[0], tmp_path_factory.mktemp("two"))


def ones(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ones(shape, dtype=np.float32)


def npy(values: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.save(folder / "x.npy", np.asarray(values))
        return folder / "x.npy"

    return write


def npz(**arrays: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "x.npz", **{name: np.asarray(values) for name, values in arrays.items()})
        return folder / "x.npz"

    return write


def text(content: str, name: str = "x.csv") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (npy(ones(4, 5)), r"input inputs has shape \(4, 5\); the model takes inputs float32 \(example, 6\)"),
        (npy(ones(4, 6, 1)), r"has shape \(4, 6, 1\)"),
        (npy(1.0), r"has shape \(\)"),
        (npy(ones(0, 6)), "at least one"),
        (npy([["a"] * 6]), "holds str"),
        (npy(np.full((2, 6), np.nan)), "12 of 12 values are NaN or infinite"),
        (npy(np.full((2, 6), 1e300)), "too large for float32"),
        (text("no array", "x.npy"), "cannot be read"),
        (text("no archive", "x.npz"), "cannot be read"),
        (text("x", "x.parquet"), "read from .npy, .npz, .csv"),
        (
            text("a,b,c,d,e\n1,2,3,4,5\n"),
            "has 5 columns of .* the 6 values of one example.* first cut into",
        ),
        (text("a,b,c,d,e,f\n1,2,3,4,5\n"), "line 2 has 5 values, the header 6"),
        (text("a,b,c,d,e,f\n1,2,3,x,5,6\n"), "line 2, column d: 'x' is no number"),
        (text("a,b,c,d,e,f\n"), "at least one|shape"),
        (npz(inputs=ones(2, 6), labels=[0, 3]), f"labels go from 0 to 3; the model has 0 to 2: {', '.join(LABELS)}"),
        (npz(inputs=ones(2, 6), labels=[0, -1]), "labels go from -1"),
        (npz(inputs=ones(2, 6), labels=[0.5, 1]), "names or whole numbers"),
        (npz(inputs=ones(2, 6), labels=["walk", "swim"]), "label swim is not among the model's: rest, walk, run"),
        (npz(inputs=ones(2, 6), labels=[0, 1, 2]), "2 examples have 3 targets"),
        (npz(inputs=ones(2, 6), labels=[0, 2], classes=["rest", "walk"]), "not among the 2 classes"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(
    tmp_path: Path, model: Path, write: Callable[[Path], Path], said: str
) -> None:
    path = write(tmp_path)
    with pytest.raises(OnnxModelError, match=said) as caught:
        read_examples(path, ExportedModel(model))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (npy(ones(4, 6)), "several inputs: give an .npz file with the arrays wave, rr"),
        (npz(wave=ones(4, 6)), "input rr is missing; the model takes wave .*; rr float32"),
        (npz(wave=ones(4, 6), rr=ones(3, 2)), "same number of examples.* wave 4, rr 3"),
    ],
)
def test_a_model_of_several_inputs_names_them(
    tmp_path: Path, two_inputs: Path, write: Callable[[Path], Path], said: str
) -> None:
    with pytest.raises(OnnxModelError, match=said):
        read_examples(write(tmp_path), ExportedModel(two_inputs))


def test_labels_follow_names_and_not_their_order(tmp_path: Path, model: Path) -> None:
    loaded, inputs = ExportedModel(model), ones(3, 6)
    by_name = npz(inputs=inputs, labels=["run", "rest", "walk"])(tmp_path)
    assert read_examples(by_name, loaded).targets.tolist() == [2, 0, 1]
    sorted_elsewhere = npz(inputs=inputs, labels=[1, 0, 2], classes=sorted(LABELS))(tmp_path)
    assert read_examples(sorted_elsewhere, loaded).targets.tolist() == [2, 0, 1]
    counted = npz(inputs=inputs, labels=[2, 0, 1])(tmp_path)
    assert read_examples(counted, loaded).targets.tolist() == [2, 0, 1]


def changed(model: Path, out: Path, **metadata: str | None) -> Path:
    """A copy with other metadata; None: without."""
    proto = onnx.load(model)
    kept = {entry.key: entry.value for entry in proto.metadata_props} | metadata
    onnx.helper.set_model_props(proto, {key: value for key, value in kept.items() if value is not None})
    onnx.save(proto, out)
    return out


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"digest": None}, "lack or break 'digest'; make it with"),
        ({"digest": "aa"}, "digest or labels are damaged"),
        ({"digest": "not hex"}, "lack or break"),
        ({"task": None}, "lack or break 'task'"),
        ({"labels": "{"}, "lack or break"),
        ({"labels": '["a", "a", "b"]'}, "damaged"),
        ({"labels": None, "classes": None}, "lack or break 'classes'"),
        ({"version": "new"}, "lack or break"),
        ({"batch_size": "0"}, "damaged"),
    ],
)
def test_a_model_that_export_has_not_written_is_refused(
    tmp_path: Path, model: Path, metadata: dict[str, str | None], said: str
) -> None:
    with pytest.raises(OnnxModelError, match=said):
        ExportedModel(changed(model, tmp_path / "changed.onnx", **metadata))


def test_a_model_of_an_older_release_is_a_classifier(tmp_path: Path, model: Path) -> None:
    old = changed(model, tmp_path / "old.onnx", labels=None, objective=None, main_metric=None, batch_size=None)
    known = ExportedModel(old).metadata
    assert (known.objective, known.labels, known.main_metric, known.batch_size) == (
        "classification",
        LABELS,
        "accuracy",
        None,
    )


def test_the_digest_that_was_asked_for_is_compared(model: Path) -> None:
    digest = ExportedModel(model).metadata.digest
    ExportedModel(model, digest=digest[:8].upper())
    with pytest.raises(OnnxModelError, match=f"its digest is {digest}, not 00000000"):
        ExportedModel(model, digest="00000000")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "--model", "MODEL", "--inputs", "none.npy"], "none.npy: No such file"),
        (["predict", "--model", "none.onnx", "--inputs", "none.npy"], "none.onnx: there is no such file"),
        (["predict", "--model", "JUNK", "--inputs", "none.npy"], "junk.onnx: "),
        (["predict", "--model", "MODEL", "--inputs", "GOOD", "--out", "/nowhere/x.csv"], "/nowhere/x.csv: "),
        (["evaluate", "--onnx", "MODEL"], "--onnx needs --inputs FILE"),
        (["evaluate", "--onnx", "MODEL", "--inputs", "GOOD"], "holds no labels or targets"),
        (["evaluate", "--inputs", "GOOD", "--task", "x", "--broker", "mqtt://x"], "--inputs is for --onnx"),
        (["evaluate"], "--task is missing (or set FEDKD_TASK); --broker is missing (or set FEDKD_BROKER)"),
    ],
)
def test_a_command_says_what_is_wrong_in_one_line(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    np.save(tmp_path / "good.npy", ones(COUNT, 6))
    places = {"MODEL": model, "JUNK": tmp_path / "junk.onnx", "GOOD": tmp_path / "good.npy"}
    assert main([str(places.get(word, word)) for word in words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_an_objective_of_the_tasks_own_is_measured_by_the_task(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = changed(model, tmp_path / "own.onnx", objective="custom")
    np.savez(tmp_path / "x.npz", inputs=ones(2, 6), labels=[0, 1])
    assert main(["evaluate", "--onnx", str(own), "--inputs", str(tmp_path / "x.npz")]) == 2
    assert "metrics that only the task knows" in capsys.readouterr().err
