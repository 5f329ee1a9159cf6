"""The recordings of a table: which rows belong together, whether their time stamps are as described, their windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_client.data.faults import DataError, place, some
from device_client.data.series_form import TimeSeries
from device_client.data.tables.table import Names, Table
from device_client.data.tables.time_stamps import SECONDS
from device_client.data.windowing import (
    NO_LABEL,
    Codes,
    Cut,
    Floats,
    Piece,
    filled,
    pieces_between,
    rate_of,
    resampled,
    windows_in,
)

RATE_TOLERANCE = 0.02
"""Largest relative difference between the rate of a file and that of the windows; clocks of sensors differ by less.
Chosen, not measured."""


@dataclass
class Left:
    """What was left out, and the longest piece that was seen; for the summary."""

    short: int = 0
    """Pieces that are shorter than one window."""
    unlabelled: int = 0
    """Windows in which no label has the majority, or that are without a label."""
    longest_seconds: float = 0.0
    longest_where: str = ""

    def piece(self, seconds: float, where: str) -> None:
        """Records the length of a piece."""
        if seconds >= self.longest_seconds:
            self.longest_seconds, self.longest_where = seconds, where

    def none_message(self, paths: Sequence[object], window_seconds: float) -> str:
        """Why there is not a single window."""
        what = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
        if self.unlabelled:
            return (
                f"{what}: none of {self.unlabelled:,} windows has a label by the rule; give shorter windows, or "
                "label_rule='majority'"
            )
        return (
            f"{what}: there is not one window of {window_seconds:g} s; the longest piece without a gap or a missing "
            f"number takes {self.longest_seconds:.3g} s ({self.longest_where}); give shorter windows, gap_seconds or "
            "fill_seconds"
        )

    def summary(self, *, files: int, windows: int, persons: int | None) -> str:
        """One line."""
        whose = "persons not known" if persons is None else _count(persons, "person")
        line = f"{_count(windows, 'window')} from {_count(files, 'file')}, {whose}"
        if self.unlabelled:
            line += f"; left out: {_count(self.unlabelled, 'window')} without a clear label"
        if self.short:
            are = "is" if self.short == 1 else "are"
            line += f"; {_count(self.short, 'piece')} between gaps {are} shorter than a window"
        return line


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A piece with at least one window."""

    piece: Piece
    starts: npt.NDArray[np.int64]
    """First sample of each window within the piece."""
    labels: Codes | None
    """Of each window."""
    person: str
    """Empty if the table has no column of persons."""


def cut_table(table: Table, form: TimeSeries, cut: Cut, left: Left) -> Iterator[Stretch]:
    """The windows of a table, piece by piece.

    Raises:
        DataError: a label is not one of the classes, a person is not named, or the time stamps are not ascending or at
            another rate.
    """
    labels = None if form.label is None else _labels(table, form, form.label)
    for rows, person in _recordings(table, form):
        time = _time(table, rows, form)
        values = table.numbers[rows]
        if form.fill_seconds > 0:
            values = filled(time, values, form.fill_seconds)
        kept = np.flatnonzero(~np.isnan(values).any(axis=1))
        if len(kept) == 0:
            continue
        limit = _gap_seconds(table, time, form)
        breaks = (np.diff(kept) > 1) | (np.diff(time[kept]) > limit)
        for begin, end in pieces_between(breaks):
            inside = kept[begin:end]
            own = None if labels is None else labels[rows[inside]]
            piece = _piece(time[inside], values[inside], own, form)
            seconds = len(piece.values) / form.rate_hz
            left.piece(seconds, place(table.path, int(table.rows[rows[inside[0]]])))
            starts, given = windows_in(piece, cut)
            if len(starts) == 0:
                left.short += 1
                continue
            if given is not None:
                clear = given != NO_LABEL
                left.unlabelled += int(np.count_nonzero(~clear))
                starts, given = starts[clear], given[clear]
            if len(starts):
                yield Stretch(piece=piece, starts=starts, labels=given, person=person)


def _piece(time: Floats, values: npt.NDArray[np.float32], labels: Codes | None, form: TimeSeries) -> Piece:
    if not form.resample or len(time) == 1:
        return Piece(values=values, labels=labels)
    values, nearest = resampled(time, values, form.rate_hz)
    return Piece(values=values, labels=None if labels is None else labels[nearest])


def _labels(table: Table, form: TimeSeries, column: str) -> Codes:
    """The class of each row."""
    found: Names = table.names[column]
    classes = np.empty(len(found.names), dtype=np.int32)
    for code, text in enumerate(found.names):
        name = form.label_names.get(text, text)
        if text in form.ignored_labels or name in form.ignored_labels:
            classes[code] = NO_LABEL
        elif name in form.classes:
            classes[code] = form.classes.index(name)
        else:
            row = int(table.rows[np.argmax(found.codes == code)])
            raise DataError(
                f"{place(table.path, row, column)}: label {text!r} is none of the classes {some(list(form.classes))}; "
                "translate it with label_names, or leave it out with ignored_labels"
            )
    return classes[found.codes]


def _recordings(table: Table, form: TimeSeries) -> Iterator[tuple[npt.NDArray[np.intp], str]]:
    """Rows and person of each recording; with time stamps, rows of one recording may lie apart in the file."""
    separating = [table.names[name] for name in (form.person, form.recording) if name is not None]
    for column, names in ((name, table.names[name]) for name in (form.person, form.recording) if name is not None):
        if "" in names.names:
            row = int(table.rows[np.argmax(names.codes == names.names.index(""))])
            raise DataError(f"{place(table.path, row, column)} is empty; each row needs one")
    if not separating:
        yield np.arange(len(table.rows)), ""
        return
    keys = np.stack([names.codes for names in separating], axis=1)
    if form.time is None:
        groups = [np.arange(begin, end) for begin, end in pieces_between((np.diff(keys, axis=0) != 0).any(axis=1))]
    else:
        _distinct, which = np.unique(keys, axis=0, return_inverse=True)
        groups = [np.flatnonzero(which.ravel() == number) for number in range(len(_distinct))]
        groups.sort(key=lambda rows: int(rows[0]))
    for rows in groups:
        person = "" if form.person is None else separating[0].names[keys[rows[0], 0]]
        yield rows, person


def _time(table: Table, rows: npt.NDArray[np.intp], form: TimeSeries) -> Floats:
    """Ascending time of each row, seconds."""
    if table.time is None:
        return np.arange(len(rows), dtype=np.float64) / form.rate_hz
    time = table.time[rows]
    wrong = np.diff(time) <= 0
    if wrong.any():
        at = int(np.argmax(wrong))
        before, row = int(table.rows[rows[at]]), int(table.rows[rows[at + 1]])
        what = "is the same as" if time[at] == time[at + 1] else f"is {time[at] - time[at + 1]:.6g} s before"
        raise DataError(
            f"{place(table.path, row, form.time)}: the time stamp {what} that of row {before:,}; sort the rows by "
            "time, or name the column that separates persons or recordings (person=, recording=), or give no time= "
            "if stamps are coarser than the samples"
        )
    return time


def _gap_seconds(table: Table, time: Floats, form: TimeSeries) -> float:
    """The longest step between two rows that is no gap; checks the rate."""
    rate = None if form.time is None else rate_of(time)
    if rate is not None and not form.resample and abs(rate / form.rate_hz - 1) > RATE_TOLERANCE:
        other = next((unit for unit, seconds in SECONDS.items() if _fits(rate, form, seconds)), None)
        hint = "set resample=True, or that rate_hz" if other is None else f"time_unit={other!r} may be right"
        raise DataError(f"{table.path}: its rows come at {rate:.6g} Hz, but the windows at {form.rate_hz:g} Hz; {hint}")
    native = rate if rate is not None and form.resample else form.rate_hz
    return (1.5 / native if form.gap_seconds is None else form.gap_seconds) + 1e-6


def _fits(rate: float, form: TimeSeries, seconds: float) -> bool:
    """Whether the rate would be right if stamps counted in another unit."""
    if form.time_unit == "iso" or seconds == SECONDS[form.time_unit]:
        return False
    return abs(rate * SECONDS[form.time_unit] / seconds / form.rate_hz - 1) <= RATE_TOLERANCE
