"""Stages for the tests of the loop."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.model_line import LineSettings
from tests.aggregator.stage import MakeStage, Stage
from tests.aggregator.synthetic import (
    LAYOUT,
    SETTINGS,
)
from wire_contract.layout import Layout


@pytest.fixture
def make_stage(tmp_path: Path) -> Iterator[MakeStage]:
    made: list[Stage] = []

    def make(settings: LineSettings = SETTINGS, layout: Layout = LAYOUT, **link: int) -> Stage:
        made.append(Stage(tmp_path / f"ledger-{len(made)}.sqlite3", settings, layout, **link))
        return made[-1]

    yield make
    for stage in made:
        stage.ledger.close()


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    return make_stage()
