"""An authority in a folder of its own."""

from pathlib import Path

import pytest

from aggregator.enrolment.authority import begin
from tests.aggregator.enrolment.authorities import NOW


@pytest.fixture(autouse=True)
def a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    begin(tmp_path / "ca", name="test", days=3_650, now=lambda: NOW)
    return tmp_path / "ca"
