"""Windows of recordings as a data set: in memory, or in a temporary file when they are too large for it."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from device_client.data.faults import DataError, some
from device_client.task import Examples

MEMORY_BYTES_MAX = 256 * 2**20
"""Samples up to this size stay in memory, larger ones go to a temporary file. Chosen: half of a gateway of 512 MB."""


@dataclass(frozen=True, kw_only=True)
class Windows(Dataset[tuple[Tensor, Tensor] | Tensor]):
    """Windows of recordings: a map-style data set of (inputs (channel, sample), label), or of inputs without labels.

    Overlapping windows share their samples, which are either in memory or in a temporary file without a name, which
    the system deletes when the program ends, however it ends.
    """

    values: npt.NDArray[np.float32]
    """(sample, channel), all pieces one after another."""
    starts: npt.NDArray[np.int64]
    """First sample of each window (window,)."""
    samples: int
    """Samples per window."""
    labels: npt.NDArray[np.int64] | None
    """(window,), indices into the classes; None without labels."""
    persons: npt.NDArray[np.str_] | None
    """(window,); None if the persons are not known."""
    classes: tuple[str, ...] = ()
    summary: str = ""
    """What was read and what was left out, in one line."""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | Tensor:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = int(self.starts[index])
        inputs = torch.from_numpy(np.ascontiguousarray(self.values[start : start + self.samples].T))
        return inputs if self.labels is None else (inputs, torch.tensor(self.labels[index]))

    def examples(self) -> Examples:
        """All windows in memory; overlapping ones repeat their samples.

        Raises:
            DataError: the windows have no labels.
        """
        if self.labels is None:
            raise DataError("these windows have no labels; name the label column (label=), or use them as a Dataset")
        views = np.lib.stride_tricks.sliding_window_view(self.values, self.samples, axis=0)  # (start, channel, sample)
        return Examples.of(np.ascontiguousarray(views[self.starts]), self.labels, self.persons)

    def of(self, *persons: str) -> "Windows":
        """The windows of some persons.

        Raises:
            DataError: the persons are not known, or one of them has no windows.
        """
        if self.persons is None:
            raise DataError("the persons of these windows are not known; name their column (person=) when reading")
        missing = sorted(set(persons) - set(self.persons.tolist()))
        if missing:
            known = sorted(set(self.persons.tolist()))
            raise DataError(f"there are no windows of person {some(missing)}; known: {some(known)}")
        return self.where(np.isin(self.persons, persons))

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Windows":
        """The windows selected by a mask (window,)."""
        return replace(
            self,
            starts=self.starts[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            persons=None if self.persons is None else self.persons[chosen],
        )


class SampleStore:
    """Takes pieces of recordings; keeps them in memory up to a limit, and then in a temporary file."""

    def __init__(self, channels: int, memory_bytes_max: int, folder: Path | None) -> None:
        self._channels = channels
        self._bytes_max = memory_bytes_max
        self._folder = folder
        self._parts: list[npt.NDArray[np.float32]] = []
        self._file: IO[Any] | None = None
        self.samples = 0

    def add(self, values: npt.NDArray[np.float32]) -> int:
        """Appends samples (sample, channel); returns the position of the first one."""
        first = self.samples
        self.samples += len(values)
        self._parts.append(values)
        if self._file is None and self.samples * self._channels * 4 > self._bytes_max:
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix="asyncfedkd-")  # noqa: SIM115 — lives on as a map
        if self._file is not None:
            for part in self._parts:
                self._file.write(np.ascontiguousarray(part).tobytes())
            self._parts.clear()
        return first

    def values(self) -> npt.NDArray[np.float32]:
        """All samples (sample, channel)."""
        if self._file is None:
            empty = np.empty((0, self._channels), dtype=np.float32)
            return np.concatenate([empty, *self._parts])
        self._file.flush()
        shape = (self.samples, self._channels)
        with self._file as file:  # the map keeps the file's content alive
            return np.memmap(file, dtype=np.float32, mode="r", shape=shape)


def as_persons(names: Sequence[str], codes: Sequence[int]) -> npt.NDArray[np.str_]:
    """The person of each window, from codes into names."""
    return np.array(names, dtype=np.str_)[np.asarray(codes, dtype=np.int64)]
