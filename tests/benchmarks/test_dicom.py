"""The benchmark of reading mammograms, on small films."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from tests.device_client.data.extras import extra

extra("pydicom")


def test_each_transfer_syntax_has_a_row_and_a_folder_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dicom", "--films", "2", "--rows", "200", "--folder-films", "8"]
    assert main([*arguments, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows, folder = figures["rows"], figures["folder"]
    assert [row["syntax"] for row in rows] == ["explicit", "deflated", "RLE", "JPEG-LS", "JPEG 2000 lossless"]
    assert all(row["ours"]["refused"] == 0 and row["ours"]["films_per_second"] > 0 for row in rows)
    assert [(name, one["films"]) for name, one in folder.items()] == [("read", 8), ("from the cache", 8)]
    assert folder["read"]["disk_mb"] > 0
    assert folder["from the cache"]["decoder_mb"] == 0, "nothing is decoded again"
    assert "JPEG 2000" in capsys.readouterr().out
