from pathlib import Path

import pytest

from tests.device_client.lines.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fleet:
    return Fleet(tmp_path, monkeypatch, capsys)
