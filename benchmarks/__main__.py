"""`python -m benchmarks NAME --json FILE …`, or `asyncfedkd benchmarks …`: runs a benchmark, prints its table, and
writes its figures.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.settings import (
    AbsenceSettings,
    AttackSettings,
    BatchNormSettings,
    BenchmarkSettings,
    CommunicationSettings,
    DicomSettings,
    EcgSettings,
    FootprintSettings,
    LearningSettings,
    LedgerSettings,
    MammographySettings,
    TelemetrySettings,
)
from wire_contract.program.command_line import Command, Program
from wire_contract.program.command_settings import UsageError

Figures = dict[str, Any]


def _benchmark(measuring: str, showing: str) -> Callable[[BenchmarkSettings], None]:
    """A command that calls `run` of one module and prints with `table` of another; both are imported when it is called,
    because importing torch takes seconds.
    """

    def run(settings: BenchmarkSettings) -> None:
        measure: Callable[[BenchmarkSettings], Figures] = import_module(measuring).run
        table: Callable[[Figures], str] = import_module(showing).table
        from device_client.task import TaskError  # noqa: PLC0415 — imports torch

        try:
            figures = measure(settings)
        except TaskError as error:
            raise UsageError(str(error)) from None
        print(table(figures))
        if settings.json_file is not None:
            settings.json_file.parent.mkdir(parents=True, exist_ok=True)
            settings.json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")

    return run


PROGRAM = Program(
    name="benchmarks",
    started_as="python -m benchmarks",
    summary="Each benchmark prints a table, and writes its figures to the file given with --json.",
    commands={
        "absence": Command(settings=AbsenceSettings, run=_benchmark("benchmarks.absence", "benchmarks.absence")),
        "attack": Command(settings=AttackSettings, run=_benchmark("benchmarks.attack", "benchmarks.attack_table")),
        "batchnorm": Command(
            settings=BatchNormSettings, run=_benchmark("benchmarks.batchnorm", "benchmarks.batchnorm")
        ),
        "communication": Command(
            settings=CommunicationSettings,
            run=_benchmark("benchmarks.communication.command", "benchmarks.communication.table"),
        ),
        "dicom": Command(settings=DicomSettings, run=_benchmark("benchmarks.dicom", "benchmarks.dicom")),
        "ecg": Command(settings=EcgSettings, run=_benchmark("benchmarks.ecg", "benchmarks.ecg_table")),
        "footprint": Command(
            settings=FootprintSettings, run=_benchmark("benchmarks.footprint", "benchmarks.footprint")
        ),
        "learning": Command(settings=LearningSettings, run=_benchmark("benchmarks.learning", "benchmarks.learning")),
        "ledger": Command(settings=LedgerSettings, run=_benchmark("benchmarks.ledger", "benchmarks.ledger")),
        "mammography": Command(
            settings=MammographySettings,
            run=_benchmark("benchmarks.mammography.command", "benchmarks.mammography.table"),
        ),
        "telemetry": Command(
            settings=TelemetrySettings, run=_benchmark("benchmarks.telemetry.command", "benchmarks.telemetry.table")
        ),
    },
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(main())
