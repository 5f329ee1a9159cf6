"""The ecg task on files written here, and on the real one where it is present."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from device_client.learning.evaluation import evaluate
from device_client.task import Examples, SplitError, TaskError
from device_client.tasks.ecg import adjusted_cross_entropy, further_persons
from device_client.tasks.ecg_beats import CLASSES, FILE, SYMBOLS, beats_of_folder, intervals_of
from device_client.tasks.loading import load_task
from tests.device_client.data.extras import extra

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "ecg_mitbih"
RECORDS = np.repeat([101, 106, 108, 109, 201, 202, 203, 205, 100, 103], 12)
TESTED = 100, 103


def fields(**changed: Any) -> dict[str, Any]:
    rows = len(RECORDS)
    return {
        "x": np.random.default_rng(0).integers(-2000, 2000, (rows, 128)).astype(np.int16),
        "y": (np.arange(rows) % 5).astype(np.uint8),
        "record": RECORDS.astype(np.uint16),
        "rr_s": np.full((rows, 2), 0.8, dtype=np.float32),
        "split": np.where(np.isin(RECORDS, TESTED), "test", "train"),
        "scale_mv": np.float32(0.0005),
        "labels": np.array(CLASSES),
    } | changed


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(folder: str = "data", **changed: Any) -> Path:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        content = {key: value for key, value in fields(**changed).items() if value is not None}
        np.savez(place / FILE, **content)
        return place

    return written


def persons_of(examples: Examples) -> list[str]:
    assert examples.persons is not None
    return sorted(set(examples.persons.tolist()))


def test_each_training_person_is_a_device_but_every_fifth(write: Callable[..., Path]) -> None:
    task = load_task("ecg", data=write())
    assert task.teacher_data is not None
    assert persons_of(task.teacher_data()) == ["101", "203"]
    assert task.devices == ("person-106", "person-108", "person-109", "person-201", "person-205")
    assert persons_of(task.held_out()) == ["100", "103"]
    one = task.examples_of("person-201")
    assert len(one) == 24, "records 201 and 202 are of one man"
    assert persons_of(one) == ["201"]


def test_inputs_are_millivolts_and_intervals(write: Callable[..., Path]) -> None:
    task = load_task("ecg", data=write())
    beats, intervals = task.examples_of("person-106").inputs
    assert tuple(beats.shape) == (12, 1, 128)
    assert tuple(intervals.shape) == (12, 3)
    row = int(np.flatnonzero(RECORDS == 106)[3])
    assert float(beats[3, 0, 9]) == pytest.approx(fields()["x"][row, 9] * 0.0005, abs=1e-6)
    assert intervals[0].tolist() == pytest.approx([0.8, 0.8, 1.0])


def test_intervals_are_compared_with_the_mean_of_the_past() -> None:
    got = intervals_of(np.array([[1.0, 0.5], [0.5, 1.5], [1.5, 200.0], [np.nan, 1.0]]))
    np.testing.assert_allclose(got[:, 0], [1.0, 0.5, 1.5, 1.0])
    np.testing.assert_allclose(got[:, 2], [1.0, 0.5 / 1.0, 1.5 / 0.75, 1.0])
    assert got[2, 1] == 3.0, "what is too long is not annotated: 3 s at most"


def test_the_student_is_small_and_the_teacher_ten_times_larger(write: Callable[..., Path]) -> None:
    task = load_task("ecg", data=write())
    assert task.teacher is not None
    student, teacher = task.student(), task.teacher()
    beats, intervals = torch.zeros(2, 1, 128), torch.ones(2, 3)
    assert student(beats, intervals).shape == teacher(beats, intervals).shape == (2, 5)
    assert torch.isfinite(student(beats, intervals)).all(), "a flat line"
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (student, teacher)]
    assert sizes[0] == 11_253
    assert sizes[1] >= 10 * sizes[0]


def test_its_metrics_are_by_class(write: Callable[..., Path]) -> None:
    task = load_task("ecg", data=write())
    values = evaluate(task.student(), task.held_out(), task)
    assert next(iter(values)) == "macro_f1"
    assert {"accuracy", "loss"} | {f"{name}_{label}" for name in ("recall", "f1") for label in CLASSES} <= set(values)
    assert values["macro_f1"] == pytest.approx(sum(values[f"f1_{label}"] for label in "NSV") / 3)


def test_augmentation_keeps_shapes_and_follows_its_generator(write: Callable[..., Path]) -> None:
    augment = load_task("ecg", data=write()).recipe.augment
    assert augment is not None
    inputs = torch.randn(4, 1, 128), torch.ones(4, 3)
    one, other = (augment(inputs, torch.Generator().manual_seed(3)) for _ in range(2))
    assert [tensor.shape for tensor in one] == [tensor.shape for tensor in inputs]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one[0], inputs[0])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"y": None, "rr_s": None}, "fields y, rr_s are missing"),
        ({"x": np.zeros((120, 50), dtype=np.int16)}, r"field x has shape \(120, 50\), not \(120, 128\)"),
        ({"x": np.float32(3)}, "field x has shape"),
        ({"rr_s": np.zeros(120)}, r"field rr_s has shape \(120,\), not \(120, 2\)"),
        ({"y": np.zeros(120)}, "field y holds float64"),
        ({"y": np.full(120, 5)}, "field y goes from 5 to 5"),
        ({"labels": np.array(["N", "S", "V", "F", "U"])}, "field labels holds"),
        ({"labels": np.array(["N", "S"])}, "field labels has shape"),
        ({"split": np.full(120, "validation")}, "field split holds"),
        ({"split": np.full(120, "train")}, "9 persons to train on and 0 to test on"),
        ({"scale_mv": np.float32(np.nan)}, "not finite"),
        ({"y": np.array([None] * 120)}, "not a readable npz"),
    ],
)
def test_a_broken_file_is_named_with_its_field(write: Callable[..., Path], changed: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskError, match=says):
        load_task("ecg", data=write(**changed))


def test_without_data_it_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="task ecg needs a data folder: --data FOLDER"):
        load_task("ecg", data=None)
    with pytest.raises(TaskError, match=f"expected .*{FILE}.*, or WFDB records .* but .* has 0 npz files"):
        load_task("ecg", data=tmp_path)
    with pytest.raises(TaskError, match="there is no folder"):
        load_task("ecg", data=tmp_path / "nowhere")


def test_a_person_on_both_sides_is_refused(write: Callable[..., Path]) -> None:
    split = fields()["split"]
    split[RECORDS == 202] = "test"
    with pytest.raises(SplitError, match="person 201 is in both the train and the test data"):
        load_task("ecg", data=write(split=split))


def test_further_persons_are_all_tested_on_unless_they_trained(write: Callable[..., Path]) -> None:
    known = write()
    assert len(further_persons(write("further", record=RECORDS + 500), known=known)) == 120, "whatever their split says"
    with pytest.raises(SplitError, match="person 109 is in both the training and the further test data"):
        further_persons(
            write("mixed", record=np.where(RECORDS == 100, 109, RECORDS + 500), split=np.full(120, "test")), known=known
        )


def test_wfdb_records_give_the_same_form(tmp_path: Path) -> None:
    wfdb = extra("wfdb")
    rate = 360
    signal = np.random.default_rng(0).normal(0, 0.1, (500 * rate, 1))
    at = np.arange(1, 499) * rate
    signal[at] += 2.0
    for name, lead, symbols in (
        *((name, "MLII", "NNNNNNAV") for name in ("101", "106", "108", "109", "112", "114", "100")),
        ("102", "V5", "N"),
        ("104", "MLII", "N/"),
    ):
        kinds = [symbols[number % len(symbols)] for number in range(len(at))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # wfdb 4.3 writes by calls that pandas 3.1 deprecates
            wfdb.wrsamp(
                name, fs=rate, units=["mV"], sig_name=[lead], p_signal=signal, fmt=["16"], write_dir=str(tmp_path)
            )
            wfdb.wrann(name, "atr", at, kinds, fs=rate, write_dir=str(tmp_path))
    found = beats_of_folder(tmp_path)
    assert found.persons(training=True) == ["101", "106", "108", "109", "112", "114"]
    assert found.persons(training=False) == ["100"], "102 has another lead, 104 a pacemaker"
    one = found.of("106")
    beats, intervals = one.inputs
    assert torch.bincount(one.labels).tolist() == [350, 62, 62], "of 373 normal beats 350 are kept"
    assert beats[:, 0].argmax(dim=1).tolist() == [54] * len(one)
    assert intervals[:, 0].tolist() == pytest.approx([1.0] * len(one))
    assert load_task("ecg", data=tmp_path).devices == ("person-106", "person-108", "person-109", "person-112")


def test_every_annotated_beat_of_the_database_has_a_class() -> None:
    assert {SYMBOLS[symbol] for symbol in "NLRejAaJSVEFQ"} == set(CLASSES)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the ecg_mitbih data is not next to this repository")
def test_the_real_file() -> None:
    task = load_task("ecg", data=SHARED)
    assert len(task.devices) == 17
    assert task.teacher_data is not None
    counts = [len(task.teacher_data()), sum(len(task.examples_of(device)) for device in task.devices)]
    held_out = task.held_out()
    assert sum(counts) + len(held_out) == 22_125
    assert torch.bincount(held_out.labels).tolist()[:2] == [5250, 1463]


def test_a_class_that_a_batch_lacks_is_hardly_pushed_down() -> None:
    logits = torch.zeros(32, 5, requires_grad=True)
    normal = torch.zeros(32, dtype=torch.int64)
    adjusted_cross_entropy(logits, (None, normal)).backward()
    assert logits.grad is not None
    adjusted = logits.grad[0].tolist()
    logits.grad = None
    torch.nn.functional.cross_entropy(logits, normal).backward()
    plain = logits.grad[0].tolist()
    assert 0 < adjusted[1] < 0.5 * plain[1], "S is pushed down by less than half as much"
    assert adjusted[0] < 0, "N is pushed up"


def test_a_batch_with_the_usual_shares_has_the_usual_loss() -> None:
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor([600, 80, 280, 35, 5]))
    logits = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(1))
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert float(adjusted_cross_entropy(logits, (None, labels))) == pytest.approx(float(plain), abs=1e-5)
