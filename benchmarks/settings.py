"""Flags of the benchmarks. Nothing here imports torch, so that `--help` and usage errors are fast."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from wire_contract.program.command_settings import CommandSettings
from wire_contract.settings import Names

PAIRS = 15
"""Chosen: enough for the noise of single runs to average out, and a run takes only seconds."""
UPDATES = 10_000
"""Updates of one run, which takes a few seconds."""
FLEET = 100_000
"""Chosen: the number of series must be the same as with a few devices."""
ROUNDS = 60
"""Of each device, with the recipe's epochs: as many passes as `har` plans with two epochs (`learning.PASSES`)."""

_TASK = "the task: a built-in name, or your own as path/to/file.py:function"
_DATA = "folder with the task's data (har: with spsw_sw_win50.npz)"
_FURTHER = "folder with additional test data (har: in the same format), on which all models are tested as well"


class BenchmarkSettings(CommandSettings):
    """Flags of all benchmarks."""

    json_file: Path | None = Field(None, alias="json", description="file for the figures")


class AbsenceSettings(BenchmarkSettings):
    """Measures the bytes that a device receives after an absence, subscribed to the model at QoS 1 and at QoS 0."""

    versions: int = Field(40, ge=1, description="versions that the device misses")
    elements: int = Field(20_000, ge=2, description="parameters of the model")
    broker: str | None = Field(None, description="URL of a broker; default: a mosquitto is started")


class AttackSettings(BenchmarkSettings):
    """Measures what one hostile device can do, and what the bounds against it cost when there is none."""

    task: str = Field("physiotherapy", min_length=1, description=_TASK)
    data: Path | None = Field(None, description=_DATA)
    seeds: int = Field(1, ge=1, description="how many seeds, from 1")
    versions: int = Field(60, ge=12, description="versions of each run")
    which: Literal["all", "quick", "none"] = Field(
        "all", description="attacks to run: all, four of them (quick), or none (only the cost of the bounds)"
    )
    cost: bool = Field(True, description="measure what the bounds cost without an attacker")
    slot_norm_ratio: float | None = Field(
        None, gt=0, description="limit on the norm of one device's share of a version; default: the aggregator's"
    )
    processes: int = Field(2, ge=1, description="parallel runs")


class DicomSettings(BenchmarkSettings):
    """Measures how fast mammograms in DICOM files are read, and with how much memory, beside pydicom alone."""

    films: int = Field(10, ge=1, description="films to read; without --data, of each transfer syntax")
    data: Path | None = Field(None, description="folder with DICOM files; default: films that are made for it")
    rows: int = Field(
        4000, ge=64, le=8000, description="rows of the films that are made; columns: three quarters of it"
    )
    folder_films: int = Field(
        0, ge=0, le=10_000, description="also take in a folder of this many synthetic films, twice; 0: do not"
    )


class EcgSettings(BenchmarkSettings):
    """Measures recall and F1 of each kind of heartbeat, with intervals by patient: federated, pooled and alone."""

    data: Path = Field(description="folder with the data of task ecg")
    test_data: Path | None = Field(None, description=_FURTHER)
    hold_out: Names = Field((), description="test on these devices instead of the test persons, to choose a recipe")
    without: Names = Field(("232",), description="persons without whom all is computed a second time")
    arms: Names = Field((), description="only these methods: federated, pooled, alone; default: all")
    seeds: int = Field(3, ge=1, description="how many seeds, from 1")
    versions: int | None = Field(
        None, ge=1, description="versions of the federated model; default: as planned for the task"
    )
    processes: int = Field(2, ge=1, description="seeds measured in parallel")


class BatchNormSettings(BenchmarkSettings):
    """Measures a student with BatchNorm: pooled, federated with statistics merged or at home, beside GroupNorm."""

    task: str | None = Field(None, min_length=1, description=f"{_TASK}; default: ten machines of unlike speed")
    data: Path | None = Field(None, description=_DATA)
    seeds: int = Field(3, ge=1, description="how many seeds, from 1")
    versions: int = Field(60, ge=6, description="versions of each run")
    update_bytes: int | None = Field(2_048, ge=1, description="size of an update, bytes")
    processes: int = Field(2, ge=1, description="parallel processes, one thread each")


class FootprintSettings(BenchmarkSettings):
    """Measures memory and CPU time of a device up to its first batch, beside a bare `import torch`."""

    task: str = Field("physiotherapy", min_length=1, description=_TASK)
    data: Path | None = Field(None, description=_DATA)
    device: str | None = Field(None, min_length=1, description="id of the device; default: the task's first")
    runs: int = Field(5, ge=1, description="runs of each program; the medians are reported")


class LedgerSettings(BenchmarkSettings):
    """Measures how costs grow with a ledger's age: commits, start, file size, write-ahead log beside a reader."""

    versions: tuple[int, ...] = Field(
        (1_000, 80_000), description="ages of the ledger at which commits are measured, in versions"
    )
    updates_per_version: int = Field(20, ge=1, description="updates in each version")
    rows: int = Field(1_000_000, ge=1_000, description="updates in the journal of the ledger whose start is measured")
    devices: int = Field(100_000, ge=1, description="devices in that ledger")
    reader_versions: int = Field(500, ge=10, description="versions written beside a reader")


class LearningSettings(BenchmarkSettings):
    """Measures accuracy on unseen persons: asynchronous federated, centralised, local only, and synchronous FedAvg."""

    task: str = Field("physiotherapy", min_length=1, description=_TASK)
    data: Path | None = Field(None, description=_DATA)
    test_data: Path | None = Field(None, description=_FURTHER)
    hold_out: Names = Field((), description="test on these devices instead of the test persons, to choose a recipe")
    seeds: int = Field(3, ge=1, description="how many seeds, from 1")
    versions: int | None = Field(
        None, ge=1, description="versions of the federated model; default: as planned for the task"
    )
    processes: int = Field(2, ge=1, description="seeds measured in parallel")


class CommunicationSettings(BenchmarkSettings):
    """Measures bytes on the wire against accuracy: FedAvg, FedKD as published, and asyncfedkd at several budgets."""

    task: str | None = Field(
        None, min_length=1, description=f"{_TASK}; default: har with --data, physiotherapy without"
    )
    data: Path | None = Field(None, description=_DATA)
    test_data: Path | None = Field(None, description=_FURTHER)
    seeds: int = Field(3, ge=1, description="how many seeds, from 1")
    rounds: int = Field(ROUNDS, ge=1, description="rounds of each device; a round is the recipe's epochs")
    arms: Names = Field((), description="only these methods, by their names in the figures; default: all")
    processes: int = Field(2, ge=1, description="parallel processes, one thread each")
    plot: Path | None = Field(
        None, description="PNG file for the plot of accuracy against bytes; default: beside --json"
    )


class MammographySettings(BenchmarkSettings):
    """Measures crops of mammograms: the published protocol, which leaks, and patients nobody trained on."""

    data: Path = Field(description="folder with mias48.npz and mias_roi_224.npz, or with folders mias48 and mias")
    test_data: Path | None = Field(None, description="folder of the same form with further patients to test on")
    parts: Names = Field((), description="only these: seed_protocol, patient_split, stragglers; default: all")
    seeds: int = Field(3, ge=1, description="how many seeds, from 1")
    effort: float = Field(1.0, gt=0, description="factor on all passes over the data, for a quick look")
    processes: int = Field(2, ge=1, description="parallel processes, one thread each")


class TelemetrySettings(BenchmarkSettings):
    """Measures updates per second with telemetry on, off and with its server stopped; counts a large fleet's series."""

    pairs: int = Field(PAIRS, ge=1, description="pairs of runs, with and without telemetry")
    updates: int = Field(UPDATES, ge=1, description="updates in one run")
    down_seconds: float = Field(60.0, ge=0, description="how long the server is stopped under load, seconds")
    fleet: int = Field(FLEET, ge=1, description="devices for the number of series")
