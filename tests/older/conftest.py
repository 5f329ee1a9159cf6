from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.mosquitto import Mosquitto
from tests.older.federation import Federation


@pytest.fixture
def federation(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Federation]:
    made = Federation(tmp_path, mosquitto)
    yield made
    for process in made.running.values():
        process.kill()
        process.wait()
