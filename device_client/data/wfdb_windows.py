"""Windows of WFDB records: one around each annotated beat, or of a fixed length one after another."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_client.data.faults import DataError, some
from device_client.data.stored import MEMORY_BYTES_MAX, Store
from device_client.data.wfdb_records import Record, Wfdb, read_record, records_in
from device_client.data.windowing import NO_LABEL, Codes, Cut, Floats, LabelRule, Piece, pieces_between, windows_in
from device_client.data.windows import Windows
from device_client.slow_work import slow_work

BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")
"""The annotation symbols that are heartbeats (PhysioBank)."""
Paths = Path | str | Iterable[Path | str]


@dataclass(frozen=True, kw_only=True)
class Beats(Wfdb):
    """A window around each beat."""

    before_seconds: float
    """Of the window, before the beat's annotation."""
    after_seconds: float
    classes: tuple[str, ...]
    symbols: Mapping[str, str]
    """From annotation symbol to class: {"N": "normal", "V": "ventricular"}. Beats with other symbols are left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.symbols.values()) - set(self.classes))
        if unknown or not self.symbols:
            raise DataError(f"symbols leads to {some(unknown)}, which classes does not contain")
        if self.before < 0 or self.samples < 1:
            raise DataError(f"a window from {self.before_seconds} s before a beat to {self.after_seconds} s after it")

    @property
    def before(self) -> int:
        """Samples before the beat."""
        return round(self.before_seconds * self.rate_hz)

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return self.before + round(self.after_seconds * self.rate_hz)


@dataclass(frozen=True, kw_only=True)
class FixedWindows(Wfdb):
    """Windows of one length, one after another; never over invalid samples."""

    window_seconds: float
    step_seconds: float | None = None
    """None: the length of a window."""
    classes: tuple[str, ...] = ()
    rhythms: Mapping[str, str] | None = None
    """From the note of a rhythm annotation to a class: {"(AFIB": "atrial fibrillation", "(N": "normal"}. A rhythm
    holds until the next note; one that is not here belongs to no class. None: windows have no labels."""
    label_rule: LabelRule = "majority"

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set((self.rhythms or {}).values()) - set(self.classes))
        if unknown or bool(self.classes) != (self.rhythms is not None):
            raise DataError(f"rhythms and classes belong together; rhythms leads to {some(unknown)} outside of classes")
        cut = self.cut
        if cut.samples < 1 or cut.step < 1:
            raise DataError("a window and a step must each have at least one sample")

    @property
    def cut(self) -> Cut:
        """In samples."""
        step = self.window_seconds if self.step_seconds is None else self.step_seconds
        return Cut(
            samples=round(self.window_seconds * self.rate_hz), step=round(step * self.rate_hz), rule=self.label_rule
        )


@dataclass(frozen=True, kw_only=True)
class FoundBeats:
    """The beats of one record that have a whole window."""

    record: Record
    starts: npt.NDArray[np.int64]
    """First sample of each window."""
    symbols: tuple[str, ...]
    intervals: Floats
    """Seconds from the beat before and to the beat after, whatever their classes (beat, 2)."""


def beats_in(record: Record, form: Beats) -> FoundBeats:
    """The beats with a known symbol, a whole valid window, and a beat before and after them."""
    assert record.annotations is not None
    beats = [at for at, symbol in enumerate(record.annotations.symbols) if symbol in BEATS]
    seconds = record.annotations.seconds[beats]
    symbols = [record.annotations.symbols[at] for at in beats]
    starts = np.round(seconds * form.rate_hz).astype(np.int64) - form.before
    sums = np.concatenate([[0], np.cumsum(~record.valid)])
    inside = (starts >= 0) & (starts + form.samples <= len(record.values))
    at = np.clip(starts, 0, max(0, len(record.values) - form.samples))
    whole = inside & (sums[np.minimum(at + form.samples, len(record.values))] == sums[at])
    neighbours = np.zeros(len(beats), dtype=bool)
    neighbours[1:-1] = True
    chosen = np.flatnonzero(whole & neighbours & np.array([symbol in form.symbols for symbol in symbols], dtype=bool))
    return FoundBeats(
        record=record,
        starts=starts[chosen],
        symbols=tuple(symbols[number] for number in chosen),
        intervals=np.stack([seconds[chosen] - seconds[chosen - 1], seconds[chosen + 1] - seconds[chosen]], axis=1),
    )


def read_beats(
    paths: Paths, form: Beats, *, memory_bytes_max: int = MEMORY_BYTES_MAX, temporary_folder: Path | None = None
) -> Windows:
    """A window (channel, sample) around each beat of the records in a folder, or of several.

    Beats at the ends of a record, or with invalid samples in their window, are left out.

    Raises:
        DataError: a record cannot be read as described, or there is no beat.
    """

    def found(record: Record) -> tuple[npt.NDArray[np.int64], Codes]:
        beats = beats_in(record, form)
        labels = [form.classes.index(form.symbols[symbol]) for symbol in beats.symbols]
        return beats.starts, np.array(labels, dtype=np.int32)

    store = Store(len(form.signals), memory_bytes_max, temporary_folder)
    windows = _collected(paths, form, found, store, samples=form.samples, classes=form.classes)
    if len(windows) == 0:
        raise DataError(f"{paths}: no beat has one of the symbols {some(sorted(form.symbols))}")
    return windows


def read_fixed_windows(
    paths: Paths, form: FixedWindows, *, memory_bytes_max: int = MEMORY_BYTES_MAX, temporary_folder: Path | None = None
) -> Windows:
    """Windows (channel, sample) of the records in a folder, or of several, labelled by rhythm if `form` says so.

    Raises:
        DataError: a record cannot be read as described, or there is no window.
    """

    def found(record: Record) -> tuple[npt.NDArray[np.int64], Codes | None]:
        labels = None if form.rhythms is None else _rhythms(record, form, form.rhythms)
        starts, given = [], []
        valid = np.flatnonzero(record.valid)
        for begin, end in pieces_between(np.diff(valid) > 1) if len(valid) else []:
            first, last = int(valid[begin]), int(valid[end - 1]) + 1
            piece = Piece(values=record.values[first:last], labels=None if labels is None else labels[first:last])
            at, codes = windows_in(piece, form.cut)
            starts.append(first + (at if codes is None else at[codes != NO_LABEL]))
            given += [] if codes is None else [codes[codes != NO_LABEL]]
        together = np.concatenate(starts) if starts else np.empty(0, dtype=np.int64)
        return together, None if labels is None else np.concatenate([np.empty(0, dtype=np.int32), *given])

    store = Store(len(form.signals), memory_bytes_max, temporary_folder)
    windows = _collected(paths, form, found, store, samples=form.cut.samples, classes=form.classes)
    if len(windows) == 0:
        raise DataError(f"{paths}: there is not one window of {form.window_seconds:g} s with a label and no gap")
    return windows


def _rhythms(record: Record, form: FixedWindows, rhythms: Mapping[str, str]) -> Codes:
    """The class of each sample."""
    assert record.annotations is not None
    labels = np.full(len(record.values), NO_LABEL, dtype=np.int32)
    for second, note in zip(record.annotations.seconds, record.annotations.notes, strict=True):
        if note.startswith("("):
            code = form.classes.index(rhythms[note]) if note in rhythms else NO_LABEL
            labels[round(second * form.rate_hz) :] = code
    return labels


def _collected(
    paths: Paths,
    form: Wfdb,
    found: Callable[[Record], tuple[npt.NDArray[np.int64], Codes | None]],
    store: Store,
    *,
    samples: int,
    classes: tuple[str, ...],
) -> Windows:
    records = records_in(paths)
    starts, labels, persons = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)], []
    with slow_work(f"reading {records[0].parent}") as progress:
        for number, path in enumerate(records):
            progress.count(number, len(records), "records")
            record = read_record(path, form, annotated=bool(classes))
            own, codes = found(record)
            starts.append(store.add(record.values) + own)
            persons += [record.person] * len(own)
            if codes is not None:
                labels.append(codes)
    return Windows(
        values=store.values(),
        starts=np.concatenate(starts),
        samples=samples,
        labels=np.concatenate(labels).astype(np.int64) if classes else None,
        persons=np.array(persons, dtype=np.str_),
        classes=classes,
        summary=f"{len(persons):,} windows from {len(records):,} records, {len(set(persons)):,} persons",
    )
