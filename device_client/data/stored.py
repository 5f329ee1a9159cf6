"""Data that was read once: in memory, or in a temporary file when it is too large for it."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from device_client.data.faults import DataError, some
from device_client.task import Examples

MEMORY_BYTES_MAX = 256 * 2**20
"""Data up to this size stays in memory, larger data goes to a temporary file. Chosen: half of a gateway of 512 MB."""


@dataclass(frozen=True, kw_only=True)
class Stored(Dataset[tuple[Tensor, Tensor] | Tensor], ABC):
    """A map-style data set of (inputs, label), or of inputs if there are no labels.

    A task may return it as it is, or `examples()` if it fits into memory.
    """

    values: npt.NDArray[Any]
    """(row, …), in memory or in a temporary file without a name, which the system deletes when the program ends,
    however it ends."""
    starts: npt.NDArray[np.int64]
    """First row of each example (example,)."""
    labels: npt.NDArray[np.int64] | None
    """(example,), indices into the classes; None without labels."""
    persons: npt.NDArray[np.str_] | None
    """(example,); None if the persons are not known."""
    classes: tuple[str, ...] = ()
    attributes: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """What else is known of each example (example,), by name; see `Examples.attributes`."""
    summary: str = ""
    """What was read and what was left out, in one line."""

    @abstractmethod
    def inputs(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The inputs (example, …) of the examples with these indices."""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | Tensor:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        inputs = torch.from_numpy(self.inputs(np.array([index], dtype=np.int64))[0])
        return inputs if self.labels is None else (inputs, torch.tensor(self.labels[index]))

    def examples(self) -> Examples:
        """All examples in memory; overlapping windows repeat their samples."""
        return Examples.of(self.inputs(np.arange(len(self))), self.labels, self.persons, attributes=self.attributes)

    def of(self, *persons: str) -> Self:
        """The examples of some persons.

        Raises:
            DataError: the persons are not known, or one of them has no examples.
        """
        if self.persons is None:
            raise DataError("the persons of this data are not known; say when reading where they stand (person…=)")
        missing = sorted(set(persons) - set(self.persons.tolist()))
        if missing:
            known = sorted(set(self.persons.tolist()))
            raise DataError(f"there are no examples of person {some(missing)}; known: {some(known)}")
        return self.where(np.isin(self.persons, persons))

    def where(self, chosen: npt.NDArray[np.bool_]) -> Self:
        """The examples selected by a mask (example,)."""
        return replace(
            self,
            starts=self.starts[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            persons=None if self.persons is None else self.persons[chosen],
            attributes={name: rows[chosen] for name, rows in self.attributes.items()},
        )


class Store:
    """Takes rows of numbers; keeps them in memory up to a limit, and then in a temporary file."""

    def __init__(
        self, width: int, memory_bytes_max: int, folder: Path | None, dtype: type[np.generic] = np.float32
    ) -> None:
        """`folder` is that of the temporary file; None: the system's place for them."""
        self._shape_of_none = (0, width)
        self._row_bytes = width * np.dtype(dtype).itemsize
        self._bytes_max = memory_bytes_max
        self._folder = folder
        self._dtype = np.dtype(dtype)
        self._parts: list[npt.NDArray[Any]] = []
        self._file: IO[Any] | None = None
        self.rows = 0

    def add(self, values: npt.NDArray[Any]) -> int:
        """Appends rows (row, width); returns the position of the first one.

        Raises:
            DataError: the temporary file cannot be written.
        """
        first = self.rows
        self.rows += len(values)
        self._parts.append(values)
        try:
            if self._file is None and self.rows * self._row_bytes > self._bytes_max:
                self._file = tempfile.TemporaryFile(dir=self._folder, prefix="asyncfedkd-")  # noqa: SIM115 — outlives this
            if self._file is not None:
                for part in self._parts:
                    self._file.write(np.ascontiguousarray(part, dtype=self._dtype).tobytes())
                self._parts.clear()
        except OSError as error:
            raise DataError(
                f"the temporary file for {self.rows * self._row_bytes / 2**20:,.0f} MiB of data cannot be written: "
                f"{error.strerror or error}; give temporary_folder= where there is room, or read less"
            ) from None
        return first

    def values(self) -> npt.NDArray[Any]:
        """All rows (row, width)."""
        if self._file is None:
            return np.concatenate([np.empty(self._shape_of_none, dtype=self._dtype), *self._parts])
        with self._file as file:  # the map keeps the file's content alive
            file.flush()
            return np.memmap(file, dtype=self._dtype, mode="r", shape=(self.rows, self._shape_of_none[1]))


def as_persons(names: Sequence[str], codes: Sequence[int]) -> npt.NDArray[np.str_]:
    """The person of each example, from codes into names."""
    return np.array(names, dtype=np.str_)[np.asarray(codes, dtype=np.int64)]
