"""The benchmark of a device's footprint, with one run of each program; memory stays within the limit of the README."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.footprint import until_started
from device_client.task import TaskError

RESIDENT_MEGABYTES_MAX = 300
EXPORT_MEGABYTES_MAX = 600
"""Measured: 468. An export needs a larger machine than a gateway, but not a much larger one."""


def test_a_device_fits_a_small_gateway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["footprint", "--runs", "1", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["task"], figures["parameters"], figures["runs"]) == ("physiotherapy", 20_151, 1)
    bare, device = figures["torch"], figures["device"]
    assert 0 < bare["resident_megabytes"] < device["resident_megabytes"] < RESIDENT_MEGABYTES_MAX
    assert 0 < bare["cpu_seconds"] < device["cpu_seconds"]
    assert figures["cpu_ratio"] == pytest.approx(device["cpu_seconds"] / bare["cpu_seconds"])
    exported, onnx = figures["export"], figures["evaluate_onnx"]
    assert 0 < onnx["resident_megabytes"] < bare["resident_megabytes"] < exported["resident_megabytes"]
    assert 0 < onnx["cpu_seconds"] < exported["cpu_seconds"]
    assert exported["resident_megabytes"] < EXPORT_MEGABYTES_MAX
    assert "student of 20,151 parameters" in capsys.readouterr().out


def test_an_unknown_device_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["footprint", "--device", "person-99"]) == 2
    assert "no device 'person-99'" in capsys.readouterr().err


def test_a_program_that_ends_early_is_an_error() -> None:
    with pytest.raises(TaskError, match="ended before its first batch"):
        until_started(["-c", "pass"])
