"""Windows of WFDB records, written by wfdb itself."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.data.faults import DataError
from device_client.data.wfdb_windows import Beats, FixedWindows, read_beats, read_fixed_windows
from tests.device_client.data.extras import extra

wfdb = extra("wfdb")
CLASSES = ("normal", "ventricular")
SYMBOLS = {"N": "normal", "L": "normal", "V": "ventricular"}


def write_record(
    folder: Path,
    name: str,
    *,
    beats: str = "NNVNN",
    rate: int = 100,
    notes: dict[int, str] | None = None,
    hole: slice | None = None,
) -> None:
    """One beat a second from second 1 on; the signal rises by 0.01 mV a sample, and has a peak at each beat."""
    signal = np.arange((len(beats) + 2) * rate) / rate * 0.1
    at = (1 + np.arange(len(beats))) * rate
    signal[at] += 5.0
    if hole is not None:
        signal[hole] = np.nan
    both = np.stack([signal, -signal], axis=1)
    folder.mkdir(exist_ok=True)
    marks = [(int(sample), symbol, "") for sample, symbol in zip(at, beats, strict=True)]
    marks += [(sample, "+", note) for sample, note in (notes or {}).items()]
    marks.sort()
    samples, symbols, texts = zip(*marks, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wfdb 4.3 writes by calls that pandas 3.1 deprecates
        wfdb.wrsamp(
            name,
            fs=rate,
            units=["mV", "mV"],
            sig_name=["MLII", "V1"],
            p_signal=both,
            fmt=["16", "16"],
            write_dir=folder,
        )
        wfdb.wrann(name, "atr", np.array(samples), list(symbols), aux_note=list(texts), fs=rate, write_dir=str(folder))


def beats(**changes: Any) -> Beats:
    known: dict[str, Any] = {
        "signals": ("MLII",),
        "rate_hz": 100.0,
        "before_seconds": 0.3,
        "after_seconds": 0.4,
        "classes": CLASSES,
        "symbols": SYMBOLS,
    }
    return Beats(**(known | changes))


def test_a_window_lies_around_each_beat(tmp_path: Path) -> None:
    write_record(tmp_path, "100", beats="NNVaNN")
    write_record(tmp_path, "202", beats="LLL")
    windows = read_beats(tmp_path, beats(persons={"202": "201"}))
    examples = windows.examples()
    assert tuple(examples.inputs.shape) == (4, 1, 70)
    assert examples.inputs[:, 0].argmax(dim=1).tolist() == [30] * 4
    assert examples.labels.tolist() == [0, 1, 0, 0], "the first and last beat have no neighbour, and a is not wanted"
    assert windows.persons is not None
    assert windows.persons.tolist() == ["100", "100", "100", "201"]
    assert float(examples.inputs[0, 0, 0]) == pytest.approx((2 - 0.3) * 0.1, abs=1e-3)


def test_another_rate_is_resampled(tmp_path: Path) -> None:
    write_record(tmp_path, "100")
    windows = read_beats(tmp_path / "100.hea", beats(rate_hz=50.0, signals=("V1", "MLII")))
    examples = windows.examples()
    assert tuple(examples.inputs.shape) == (3, 2, 35)
    assert examples.inputs[:, 1].argmax(dim=1).tolist() == [15] * 3
    assert examples.inputs[:, 0].argmin(dim=1).tolist() == [15] * 3


def test_no_window_lies_over_invalid_samples(tmp_path: Path) -> None:
    write_record(tmp_path, "100", hole=slice(225, 228))
    for rate in (100.0, 50.0):
        examples = read_beats(tmp_path, beats(rate_hz=rate)).examples()
        assert examples.labels.tolist() == [1, 0]
    fixed = FixedWindows(signals=("MLII",), rate_hz=100.0, window_seconds=1.0)
    windows = read_fixed_windows(tmp_path, fixed)
    assert windows.starts.tolist() == [0, 100, 228, 328, 428, 528]


def test_fixed_windows_are_labelled_by_rhythm(tmp_path: Path) -> None:
    write_record(tmp_path, "100", notes={50: "(N", 350: "(AFIB", 560: "(VT"})
    form = FixedWindows(
        signals=("MLII",),
        rate_hz=100.0,
        window_seconds=1.0,
        classes=CLASSES,
        rhythms={"(N": "normal", "(AFIB": CLASSES[1]},
    )
    windows = read_fixed_windows(tmp_path, form)
    assert windows.starts.tolist() == [100, 200, 400, 500], "half of the window at 300 has either; none before 50"
    assert windows.labels is not None
    assert windows.labels.tolist() == [0, 0, 1, 1]
    assert len(windows.of("100")) == 4


def test_faults_name_the_record(tmp_path: Path) -> None:
    write_record(tmp_path / "a", "100")
    with pytest.raises(DataError, match="100: the record has no signal 'II'; its signals are 'MLII', 'V1'"):
        read_beats(tmp_path / "a", beats(signals=("II",)))
    with pytest.raises(DataError, match=r"100: its annotation file \(.qrs\) is missing"):
        read_beats(tmp_path / "a", beats(annotator="qrs"))
    with pytest.raises(DataError, match="no beat has one of the symbols 'F'"):
        read_beats(tmp_path / "a", beats(symbols={"F": "ventricular"}))
    with pytest.raises(DataError, match="not one window of 60 s"):
        read_fixed_windows(tmp_path / "a", FixedWindows(signals=("V1",), rate_hz=100.0, window_seconds=60.0))
    (tmp_path / "a" / "100.dat").write_bytes(b"12")
    with pytest.raises(DataError, match="100: its signal file cannot be read") as raised:
        read_beats(tmp_path / "a", beats())
    assert "\n" not in str(raised.value)
    (tmp_path / "a" / "100.hea").unlink()
    with pytest.raises(DataError, match="has no WFDB record"):
        read_beats(tmp_path / "a", beats())
    with pytest.raises(DataError, match=r"100: its header \(.hea\) is missing"):
        read_beats(tmp_path / "a" / "100", beats())


@pytest.mark.parametrize(
    "changes", [{"symbols": {"N": "x"}}, {"signals": "MLII"}, {"rate_hz": 0.0}, {"before_seconds": -1.0}]
)
def test_a_contradictory_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        beats(**changes)
