"""Stages for the tests of looks at the broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.aggregator.publishing.stages import Make, Stage
from wire_contract.link.memory import MemoryBroker


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Stage] = []

    def one(name: str = "ledger", kind: type[Stage] = Stage, broker: MemoryBroker | None = None, **link: int) -> Stage:
        made.append(kind(tmp_path / name, broker, **link))
        return made[-1]

    yield one
    for stage in made:
        stage.ledger.close()


@pytest.fixture
def stage(make: Make) -> Stage:
    made = make()
    made.step()
    return made
