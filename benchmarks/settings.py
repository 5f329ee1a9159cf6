"""Flags of the benchmarks. Nothing here imports torch, so that `--help` and a wrong flag answer at once."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from wire_contract.program.command_settings import CommandSettings
from wire_contract.settings import Names

PAIRS = 15
UPDATES = 10_000
"""Of one run, a few seconds."""
FLEET = 100_000
ROUNDS = 60

_TASK = "what is learned: a built-in name, or your own as path/to/file.py:function"
_DATA = "folder of the task's data (har: with spsw_sw_win50.npz)"
_FURTHER = "folder of further test data (har: of the same form); every row is tested on them as well"


class BenchmarkSettings(CommandSettings):
    """What all of them know."""

    json_file: Path | None = Field(None, alias="json", description="file for the figures")


class AbsenceSettings(BenchmarkSettings):
    """Bytes that a device receives which was away for many versions, listening to the model at QoS 1 and at QoS 0."""

    versions: int = Field(40, ge=1, description="versions that it misses")
    elements: int = Field(20_000, ge=2, description="numbers in the model")
    broker: str | None = Field(None, description="URL of a broker to use; else a mosquitto is started")


class AttackSettings(BenchmarkSettings):
    """One hostile device of a federation, and what the bounds against it cost when there is none."""

    task: str = Field("physiotherapy", min_length=1, description=_TASK)
    data: Path | None = Field(None, description=_DATA)
    seeds: int = Field(1, ge=1, description="how many seeds, from 1")
    versions: int = Field(60, ge=12, description="versions of each run")
    which: Literal["all", "quick", "none"] = Field(
        "all", description="attacks to run: all, four of them (quick), or none, for what the bounds cost alone"
    )
    cost: bool = Field(True, description="measure what the bounds cost while nobody is hostile")
    slot_norm_ratio: float | None = Field(
        None, gt=0, description="another budget of a slot than the aggregator's default"
    )
    processes: int = Field(2, ge=1, description="runs at a time")


class LedgerSettings(BenchmarkSettings):
    """What a ledger's age costs: commits, a start, its file, its write-ahead log beside a reader."""

    versions: tuple[int, ...] = Field((1_000, 80_000), description="ages at which a commit is measured, versions")
    updates_per_version: int = Field(20, ge=1, description="updates that each version is made of")
    rows: int = Field(1_000_000, ge=1_000, description="updates in the journal of the ledger that is opened")
    devices: int = Field(100_000, ge=1, description="devices that it knows")
    reader_versions: int = Field(500, ge=10, description="versions that are made beside a reader")


class LearningSettings(BenchmarkSettings):
    """Accuracy on unseen persons: asynchronous federated against centralised, local-only and synchronous FedAvg."""

    task: str = Field("physiotherapy", min_length=1, description=_TASK)
    data: Path | None = Field(None, description=_DATA)
    test_data: Path | None = Field(None, description=_FURTHER)
    hold_out: Names = Field(
        (), description="these devices are tested on instead of the test persons, to choose a recipe by"
    )
    seeds: int = Field(3, ge=1, description="how many seeds, from 1")
    versions: int | None = Field(
        None, ge=1, description="versions of the federated model; else as the task's plan says"
    )
    processes: int = Field(2, ge=1, description="seeds measured at a time")


class CommunicationSettings(BenchmarkSettings):
    """Bytes on the wire against accuracy: FedAvg, FedKD as published, and ours at several budgets."""

    task: str | None = Field(
        None, min_length=1, description=f"{_TASK}; else har with --data, and physiotherapy without"
    )
    data: Path | None = Field(None, description=_DATA)
    test_data: Path | None = Field(None, description=_FURTHER)
    seeds: int = Field(3, ge=1, description="how many seeds, from 1")
    rounds: int = Field(ROUNDS, ge=1, description="rounds of each device, of the task's epochs")
    arms: Names = Field((), description="only these ways, by the names in the figures; else all")
    processes: int = Field(2, ge=1, description="processes, of one thread each")
    plot: Path | None = Field(None, description="PNG file of accuracy against bytes; else beside --json")


class TelemetrySettings(BenchmarkSettings):
    """Updates per second with telemetry on and off, and with its server stopped; series of a large fleet."""

    pairs: int = Field(PAIRS, ge=1, description="runs with telemetry, and as many without")
    updates: int = Field(UPDATES, ge=1, description="updates of one run")
    down_seconds: float = Field(60.0, ge=0, description="so long the server is stopped under load, seconds")
    fleet: int = Field(FLEET, ge=1, description="devices for the count of series")
