"""The benchmark of reading mammograms, on small films."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from tests.device_client.data.extras import extra

extra("pydicom")


def test_each_transfer_syntax_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dicom", "--films", "2", "--rows", "160", "--json", str(tmp_path / "figures.json")]) == 0
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["syntax"] for row in rows] == ["explicit", "deflated", "RLE", "JPEG-LS", "JPEG 2000 lossless"]
    assert all(row["ours"]["refused"] == 0 and row["ours"]["films_per_second"] > 0 for row in rows)
    assert "JPEG 2000" in capsys.readouterr().out
