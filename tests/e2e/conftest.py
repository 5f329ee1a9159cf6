"""What several of these tests work on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.aggregator_stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()
