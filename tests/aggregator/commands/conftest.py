"""Commands run in a folder of their own and reach no broker."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import aggregator.__main__ as program


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(program, "MqttLink", None)  # no test here may come so far
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
