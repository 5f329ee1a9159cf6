"""What a user says of a table with time series: which column is what, and how windows are cut."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from device_client.data.faults import DataError, some
from device_client.data.tables.table import CsvForm
from device_client.data.tables.time_stamps import TimeUnit
from device_client.data.windowing import LabelRule


@dataclass(frozen=True, kw_only=True)
class TimeSeries:
    """Where a table has what, and how its windows are cut."""

    columns: tuple[str, ...]
    """The channels of a window, in this order."""
    rate_hz: float
    """Samples per second in a window."""
    window_seconds: float
    step_seconds: float | None = None
    """From one window to the next; None: the length of a window, without overlap."""
    time: str | None = None
    """The column of time stamps; None: rows follow one another at `rate_hz`, and gaps cannot be seen."""
    time_unit: TimeUnit = "s"
    """iso: text such as 2026-03-01T12:00:00.250Z. Parquet columns of time stamps have their own."""
    gap_seconds: float | None = None
    """A longer step between two rows is a gap; None: 1.5 times the time between two samples."""
    resample: bool = False
    """True: rows come at another rate, or irregularly, and are resampled to `rate_hz`."""
    fill_seconds: float = 0.0
    """Missing numbers are interpolated if the valid ones before and after are at most so far apart. 0: never, and a
    row with a missing number is a gap."""
    label: str | None = None
    """The column of labels; None: windows have none."""
    classes: tuple[str, ...] = ()
    """The task's classes; a label is the index of its text here."""
    label_names: Mapping[str, str] = field(default_factory=dict)
    """From the text in the file to a class, where they differ: {"1": "WALKING"}."""
    ignored_labels: tuple[str, ...] = ("",)
    """Rows with these labels belong to no class."""
    label_rule: LabelRule = "majority"
    """majority: the label of more than half of a window's rows. constant: that of all of them. A window in which no
    label fulfils this is left out, and counted."""
    person: str | None = None
    """The column of persons."""
    person_pattern: str | None = None
    """A regular expression with one group that finds the person in a file's path within its folder, such as
    r"subject_(\\d+)"."""
    recording: str | None = None
    """The column of recordings (session, trial), if one file has several of a person."""
    csv: CsvForm = field(default_factory=CsvForm)

    def __post_init__(self) -> None:
        columns: object = self.columns
        if not isinstance(columns, tuple) or not columns or len(set(columns)) < len(columns):
            raise DataError(f'columns={columns!r} must be a tuple of different names, such as ("ax", "ay", "az")')
        self._check_numbers()
        self._check_labels()
        for name, value, known in (
            ("time_unit", self.time_unit, get_args(TimeUnit)),
            ("label_rule", self.label_rule, get_args(LabelRule)),
        ):
            if value not in known:
                raise DataError(f"{name}={value!r} must be one of {some(list(known))}")
        if self.person is not None and self.person_pattern is not None:
            raise DataError("give the person as a column (person) or in the file's path (person_pattern), not both")
        if self.person_pattern is not None:
            check_pattern(self.person_pattern)
        if self.time is None and (self.resample or self.gap_seconds is not None):
            raise DataError("resample and gap_seconds need time stamps; name their column (time=)")

    def _check_numbers(self) -> None:
        given = {"rate_hz": self.rate_hz, "window_seconds": self.window_seconds}
        for name, value in (given | {"step_seconds": self.step_seconds, "gap_seconds": self.gap_seconds}).items():
            if value is not None and not 0 < value < float("inf"):
                raise DataError(f"{name}={value!r} must be a number above 0")
        if not 0 <= self.fill_seconds < float("inf"):
            raise DataError(f"fill_seconds={self.fill_seconds!r} must be a number of at least 0")
        if self.samples < 1 or self.step_samples < 1:
            raise DataError(f"at {self.rate_hz:g} Hz a window and a step must each have at least one sample")

    def _check_labels(self) -> None:
        if (self.label is None) == bool(self.classes):
            raise DataError("label (a column) and classes (its values) belong together; give both or neither")
        unknown = sorted(set(self.label_names.values()) - set(self.classes))
        if unknown:
            raise DataError(f"label_names leads to {some(unknown)}, which classes does not contain")

    @property
    def samples(self) -> int:
        """Samples per window, rounded."""
        return round(self.window_seconds * self.rate_hz)

    @property
    def step_samples(self) -> int:
        """Samples from one window to the next, rounded."""
        return self.samples if self.step_seconds is None else round(self.step_seconds * self.rate_hz)


def check_pattern(pattern: str) -> None:
    """Checks a regular expression that finds a person in a path.

    Raises:
        DataError: it is not one, or has not exactly one group.
    """
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise DataError(f"person_pattern={pattern!r} is not a regular expression: {error}") from None
    if groups != 1:
        raise DataError(rf"person_pattern={pattern!r} needs one group in parentheses, such as 'subject_(\d+)'")
