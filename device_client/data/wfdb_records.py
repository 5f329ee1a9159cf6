"""Signals and annotations of WFDB records (PhysioNet), read with the package wfdb (extra `wfdb`)."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.data.faults import DataError, check_given, needed, some
from device_client.data.windowing import Floats, Samples, resampled
from device_client.task_checks import first_line


@dataclass(frozen=True, kw_only=True)
class Wfdb:
    """What is read of each record."""

    signals: tuple[str, ...]
    """Names of signals, such as ("MLII",): the channels of a window. A record that lacks one is a fault."""
    rate_hz: float
    """Samples per second in a window; records of another rate are resampled."""
    annotator: str = "atr"
    """Suffix of the annotation file."""
    persons: Mapping[str, str] = field(default_factory=dict)
    """From record to person, for records of the same person: {"202": "201"}. Other records are a person each."""

    def __post_init__(self) -> None:
        signals: object = self.signals
        if not isinstance(signals, tuple) or not signals:
            raise DataError(f'signals={signals!r} must be a tuple of names, such as ("MLII",)')
        if not 0 < self.rate_hz < float("inf"):
            raise DataError(f"rate_hz={self.rate_hz!r} must be a number above 0")


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Annotations in order of time."""

    seconds: Floats
    symbols: tuple[str, ...]
    """Such as N, V or +."""
    notes: tuple[str, ...]
    """Such as (AFIB; empty if an annotation has none."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record, at the rate that was asked for."""

    path: Path
    """Without suffix."""
    person: str
    values: Samples
    """(sample, channel) in physical units, 0 where invalid."""
    valid: npt.NDArray[np.bool_]
    """(sample,)."""
    annotations: Annotations | None


def records_in(paths: Path | str | Iterable[Path | str]) -> list[Path]:
    """The records of a folder with its subfolders, or of several; a record is named with or without a suffix.

    Raises:
        DataError: a folder has none.
    """
    check_given(paths)
    found: list[Path] = []
    for path in [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]:
        if path.is_dir():
            listed = path / "RECORDS"  # names the records where a folder has segments as well
            inside = (
                [path / name for name in listed.read_text(encoding="utf-8").split()]
                if listed.is_file()
                else sorted(header.with_suffix("") for header in path.rglob("*.hea"))
            )
            if not inside:
                raise DataError(f"folder {path} has no WFDB record (*.hea)")
            found += inside
        else:
            found.append(path.with_suffix("") if path.suffix in {".hea", ".dat", ".atr"} else path)
    return found


def signal_names(path: Path) -> Sequence[str]:
    """The names of a record's signals.

    Raises:
        DataError: wfdb is not installed, or the header is missing or not readable.
    """
    wfdb = needed("wfdb", extra="wfdb", purpose="reading WFDB records")
    return _called(wfdb.rdheader, path, "header (.hea)").sig_name or []


def read_record(path: Path, form: Wfdb, *, annotated: bool) -> Record:
    """A record, and its annotations if `annotated`.

    Raises:
        DataError: wfdb is not installed, a file is missing or not readable, or the record lacks a signal.
    """
    wfdb = needed("wfdb", extra="wfdb", purpose="reading WFDB records")
    names = signal_names(path)
    missing = [name for name in form.signals if name not in names]
    if missing:
        raise DataError(f"{path}: the record has no signal {some(missing)}; its signals are {some(list(names))}")
    record = _called(
        lambda name: wfdb.rdrecord(name, channel_names=list(form.signals), return_res=64), path, "signal file"
    )
    order = [record.sig_name.index(name) for name in form.signals]
    values: Any = record.p_signal[:, order]
    if len(values) < 2:  # noqa: PLR2004 — nothing to interpolate between
        raise DataError(f"{path}: the record has {len(values)} samples")
    valid = np.isfinite(values).all(axis=1)
    values = np.where(valid[:, None], values, 0.0).astype(np.float32)
    if record.fs != form.rate_hz:
        values, nearest = resampled(np.arange(len(values)) / record.fs, values, form.rate_hz)
        spoiled = ~valid
        spoiled = spoiled | np.roll(spoiled, 1) | np.roll(spoiled, -1)  # a new sample is made of its neighbours
        valid = ~spoiled[nearest]
    annotations = None
    if annotated:
        found = _called(lambda name: wfdb.rdann(name, form.annotator), path, f"annotation file (.{form.annotator})")
        annotations = Annotations(
            seconds=np.asarray(found.sample, dtype=np.float64) / record.fs,
            symbols=tuple(found.symbol),
            notes=tuple(note.strip("\0 ") for note in found.aux_note),
        )
    person = form.persons.get(path.name, path.name)
    return Record(path=path, person=person, values=values, valid=valid, annotations=annotations)


def _called(read: Any, path: Path, what: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # wfdb 4.3 calls what pandas 3.1 deprecates
            return read(str(path))
    except FileNotFoundError:
        raise DataError(f"{path}: its {what} is missing; copy it beside the others of the record") from None
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: its {what} cannot be read: {first_line(error)}") from None
