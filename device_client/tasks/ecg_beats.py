"""The beats of task ecg, from one npz file or from WFDB records.

Fields of the file (no pickle): `x` (N, 128) integers, mV = x · scale_mv, lead MLII at 180 Hz, R peak at sample 54;
`y` (N,) index into `labels`; `record` (N,); `rr_s` (N, 2) seconds from the beat before and to the beat after; `split`
(N,) "train" or "test"; `scale_mv`; `labels` N S V F Q. The rows of a record are in order of time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_client.data.persons import side_of
from device_client.data.wfdb_records import read_record, records_in, signal_names
from device_client.data.wfdb_windows import Beats, beats_in
from device_client.slow_work import slow_work
from device_client.task import Examples, TaskError, check_split
from device_client.tasks.npz_fields import check_fields, check_label_range, is_training, read_fields

FILE = "mitbih_beats_180hz.npz"
FIELDS = ("x", "y", "record", "rr_s", "split", "scale_mv", "labels")
CLASSES = ("N", "S", "V", "F", "Q")
"""ANSI/AAMI EC57: normal and bundle branch block, supraventricular ectopic, ventricular ectopic, fusion, unknown."""
SYMBOLS: Mapping[str, str] = {
    symbol: name
    for name, symbols in {"N": "NLRBejn", "S": "AaJS", "V": "VEr", "F": "F", "Q": "Q?"}.items()
    for symbol in symbols
}
"""From annotation symbol to class, as wfdb's own comparison programs have it. Records with paced beats are left out, as
EC57 says."""
PACED = frozenset("/f")
SAME_PERSON: Mapping[str, str] = {"202": "201"}
"""Two records of the MIT-BIH Arrhythmia Database are of one man."""
SAMPLES = 128
BEFORE_SAMPLES = 54
RATE_HZ = 180.0
LEAD = "MLII"
NORMAL_BEATS_MAX = 350
"""Of each record, evenly spaced, as in the file; a record has about 2,000, and nearly all beats are normal."""
INTERVAL_MIN_S, INTERVAL_MAX_S = 0.1, 3.0
"""Intervals outside are clipped: one record has an interval of 100 s, where it is not annotated."""
DS1 = "101 106 108 109 112 114 115 116 118 119 122 124 201 203 205 207 208 209 215 220 223 230"
DS2 = "100 103 105 111 113 117 121 123 200 202 210 212 213 214 219 221 222 228 231 232 233 234"
"""Training and test records of de Chazal et al. 2004, doi 10.1109/TBME.2004.827359; 202 is trained on here, because
201 is."""
_HELD_OUT_SHARE = 0.4
"""Of records of another database, by the hash of their names: as the file's."""


@dataclass(frozen=True, kw_only=True)
class BeatSet:
    """Beats, checked."""

    examples: Examples
    """Inputs: beats (beat, 1, 128) in mV, and intervals (beat, 3); persons known."""
    training: npt.NDArray[np.bool_]
    """(beat,): the person is one to train on; the others are to test on."""

    def persons(self, *, training: bool) -> list[str]:
        """The persons of one side of the split, in order of their names."""
        assert self.examples.persons is not None
        return sorted(set(self.examples.persons[self.training == training].tolist()))

    def of(self, *persons: str) -> Examples:
        """All beats of some persons."""
        assert self.examples.persons is not None
        return self.examples.where(np.isin(self.examples.persons, persons))


def beats_of_folder(folder: Path) -> BeatSet:
    """The beats in the npz file of a folder, or in its WFDB records if it has no such file.

    Raises:
        TaskError: there is neither, or it has not the form above.
        SplitError: a person is marked both "train" and "test".
    """
    if not folder.is_dir():
        raise TaskError(f"task ecg: there is no folder {folder}; give --data FOLDER with {FILE} or WFDB records")
    candidates = [folder / FILE] if (folder / FILE).is_file() else sorted(folder.glob("*.npz"))
    if len(candidates) == 1:
        return read_file(candidates[0])
    if not candidates and next(folder.rglob("*.hea"), None) is not None:
        return read_records(folder)
    raise TaskError(
        f"task ecg: expected {folder / FILE} (or one npz file of that form), or WFDB records (*.hea), but {folder} has "
        f"{len(candidates)} npz files"
    )


@lru_cache(maxsize=2)
def read_file(path: Path) -> BeatSet:
    """The checked content of one file.

    Raises:
        TaskError: a field is missing, or has a wrong shape or range.
        SplitError: a person is marked both "train" and "test".
    """
    fields = read_fields(path, FIELDS)
    rows = len(fields["x"]) if fields["x"].ndim else 0
    per_row = dict.fromkeys(("y", "record", "split"), (rows,))
    shapes = {"x": (rows, SAMPLES), **per_row, "rr_s": (rows, 2), "scale_mv": (), "labels": (len(CLASSES),)}
    kinds = {"x": "iuf", "scale_mv": "iuf", "rr_s": "iuf", "y": "iu", "record": "iuUS", "split": "U"}
    check_fields(path, fields, shapes, kinds)
    if tuple(fields["labels"].tolist()) != CLASSES:
        raise TaskError(f"{path}: field labels holds {fields['labels'].tolist()}, not {list(CLASSES)}")
    labels = fields["y"].astype(np.int64)
    check_label_range(path, labels, len(CLASSES))
    training = is_training(path, fields)
    beats = fields["x"].astype(np.float32) * np.float32(fields["scale_mv"])
    if not np.isfinite(beats).all():
        raise TaskError(f"{path}: fields x and scale_mv give values that are not finite")
    return _beat_set(beats, labels, fields["record"].astype(np.str_), fields["rr_s"], training)


def read_records(folder: Path) -> BeatSet:
    """The beats of a folder of WFDB records, with at most 350 normal beats of each record.

    Left out are records without the lead MLII and records with paced beats. The split is that of de Chazal et al. for
    the records of the MIT-BIH Arrhythmia Database, and by the hash of the record's name for others.

    Raises:
        TaskError: the package wfdb is missing, a record cannot be read, or none is left.
    """
    form = Beats(
        signals=(LEAD,),
        rate_hz=RATE_HZ,
        before_seconds=BEFORE_SAMPLES / RATE_HZ,
        after_seconds=(SAMPLES - BEFORE_SAMPLES) / RATE_HZ,
        classes=CLASSES,
        symbols=SYMBOLS,
    )
    parts: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float64], str]] = []
    records = records_in(folder)
    with slow_work(f"reading {folder}") as progress:
        for number, path in enumerate(records):
            progress.count(number, len(records), "records")
            if LEAD not in signal_names(path):
                continue
            record = read_record(path, form, annotated=True)
            assert record.annotations is not None
            if PACED & set(record.annotations.symbols):
                continue
            found = beats_in(record, form)
            labels = np.array([CLASSES.index(SYMBOLS[symbol]) for symbol in found.symbols], dtype=np.int64)
            kept = _thinned(labels)
            windows = np.lib.stride_tricks.sliding_window_view(record.values[:, 0], SAMPLES)[found.starts[kept]]
            parts.append((windows, labels[kept], found.intervals[kept], path.name))
    if not sum(len(labels) for _windows, labels, _intervals, _name in parts):
        raise TaskError(f"{folder}: no record has the lead {LEAD}, annotated beats and no paced ones")
    names = np.concatenate([np.full(len(labels), name, dtype="U64") for _windows, labels, _intervals, name in parts])
    return _beat_set(
        np.concatenate([windows for windows, _labels, _intervals, _name in parts]),
        np.concatenate([labels for _windows, labels, _intervals, _name in parts]),
        names,
        np.concatenate([intervals for _windows, _labels, intervals, _name in parts]),
        np.array([_is_trained_on(str(name)) for name in names], dtype=np.bool_),
    )


def _thinned(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """The beats that are kept: all but normal ones, and of these an even selection."""
    normal = np.flatnonzero(labels == 0)
    if len(normal) > NORMAL_BEATS_MAX:
        normal = normal[np.linspace(0, len(normal) - 1, NORMAL_BEATS_MAX).round().astype(np.int64)]
    return np.sort(np.concatenate([normal, np.flatnonzero(labels != 0)]))


def _is_trained_on(record: str) -> bool:
    person = SAME_PERSON.get(record, record)
    if person in f"{DS1} {DS2}".split():
        return person in DS1.split()
    return side_of(person, teacher_share=0.0, held_out_share=_HELD_OUT_SHARE) == "devices"


def _beat_set(
    beats: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    records: npt.NDArray[np.str_],
    seconds: npt.NDArray[np.generic],
    training: npt.NDArray[np.bool_],
) -> BeatSet:
    persons = np.array([SAME_PERSON.get(name, name) for name in records.tolist()], dtype=np.str_)
    check_split({"train": persons[training], "test": persons[~training]})
    intervals = np.empty((len(beats), 3), dtype=np.float32)
    for record in np.unique(records):
        chosen = records == record
        intervals[chosen] = intervals_of(seconds[chosen].astype(np.float64))
    return BeatSet(examples=Examples.of((beats[:, None, :], intervals), labels, persons), training=training)


def intervals_of(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """What the network is told of the intervals of one record's beats, in order of time: (beat, 3).

    Seconds before the beat, seconds after it, and the former divided by its mean over the beats so far. The mean is
    over the past only, so that a device can compute it while it records; the first beat is compared with itself. An
    interval that is not known is taken for this mean.
    """
    clipped = np.clip(seconds, INTERVAL_MIN_S, INTERVAL_MAX_S)
    known = np.isfinite(clipped[:, 0])
    past = np.where(known, clipped[:, 0], 0.0).cumsum()
    counts = known.cumsum()
    start = float(clipped[known, 0][0]) if known.any() else 1.0
    means = np.concatenate([[start], np.where(counts > 0, past / np.maximum(counts, 1), start)[:-1]])
    before = np.where(known, clipped[:, 0], means)
    after = np.where(np.isfinite(clipped[:, 1]), clipped[:, 1], means)
    return np.stack([before, after, before / means], axis=1).astype(np.float32)
