"""What a user's code does later than at its first call, with its faults turned into one line: data sets that load while
they are read, and losses, metrics and networks during a round.
"""

from collections.abc import Iterator
from typing import Any

from device_client.task import Data, Examples
from device_client.task.examples import is_iterable_dataset, is_map_dataset
from device_client.task_checks import ExamplesError, TaskError
from device_client.tasks.user_code import called_through_us, user_code
from device_client.trainer import Tick, Trained, Trainer
from wire_contract.layout import Vector


def guarded(data: Data, where: str) -> Data:
    """The data, whose faults while it is read are one line that begins with `where`. Examples in memory have none."""
    if isinstance(data, Examples):
        return data
    if is_map_dataset(data):
        return _Dataset(data, where)
    return _Samples(data, where) if is_iterable_dataset(data) else _Batches(data, where)


class _Guard:
    def __init__(self, data: Any, where: str) -> None:
        self._data, self._where = data, where
        self.persons = getattr(data, "persons", None)
        self.sources = getattr(data, "sources", None)
        self.image_hashes = getattr(data, "image_hashes", None)
        self.attributes = getattr(data, "attributes", {})

    def __len__(self) -> int:
        """Of a `DataLoader` the number of batches; a TypeError where it is not known, as `len` itself gives."""
        return len(self._data)


class _Dataset(_Guard):
    def __getitem__(self, index: int, /) -> Any:
        with user_code(f"{self._where}[{index}]"):
            return self._data[index]


class _Batches(_Guard):
    def __iter__(self) -> Iterator[Any]:
        with user_code(f"{self._where}: reading it"):
            batches = iter(self._data)
        while True:
            with user_code(f"{self._where}: reading it"):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch


class _Samples(_Batches):
    yields_examples = True


class GuardedTrainer:
    """A trainer whose rounds end with one line where the user's code fails. Implements `trainer.Trainer`."""

    def __init__(self, trainer: Trainer, task: str, *, device: str) -> None:
        self._trainer, self._task, self._device = trainer, task, device

    def train(self, weights: Vector, *, version: int, round: int, tick: Tick) -> Trained | None:  # noqa: A002
        """See `trainer.Trainer`.

        Raises:
            TaskError: the user's code failed.
        """
        try:
            with called_through_us(f"task {self._task}: round {round} on model {version}"):
                return self._trainer.train(weights, version=version, round=round, tick=tick)
        except ExamplesError as error:
            raise TaskError(f"task {self._task}: device_data({self._device!r}): {error}") from error
