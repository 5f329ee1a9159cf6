"""`python -m benchmarks NAME --json FILE …`, or `asyncfedkd benchmarks …`: runs one measurement, prints its table and
writes its figures.
"""

import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from benchmarks.settings import (
    AbsenceSettings,
    AttackSettings,
    BenchmarkSettings,
    CommunicationSettings,
    LearningSettings,
    LedgerSettings,
    TelemetrySettings,
)
from wire_contract.program import command_line
from wire_contract.program.command_line import Command, Program
from wire_contract.program.command_settings import UsageError

CALLED = "python -m benchmarks"
Figures = dict[str, Any]


def _benchmark(measuring: str, showing: str) -> Callable[[BenchmarkSettings], None]:
    """The one whose module has `run`, and whose other module has `table`; both are loaded when it is called, as torch
    takes seconds.
    """

    def run(settings: BenchmarkSettings) -> None:
        measure: Callable[[BenchmarkSettings], Figures] = import_module(measuring).run
        table: Callable[[Figures], str] = import_module(showing).table
        from device_client.task import TaskError  # noqa: PLC0415 — has torch behind it

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
    says="Each measures one thing, prints its table and writes its figures where --json says.",
    commands={
        "absence": Command(settings=AbsenceSettings, run=_benchmark("benchmarks.absence", "benchmarks.absence")),
        "attack": Command(settings=AttackSettings, run=_benchmark("benchmarks.attack", "benchmarks.attack_table")),
        "communication": Command(
            settings=CommunicationSettings,
            run=_benchmark("benchmarks.communication.command", "benchmarks.communication.table"),
        ),
        "learning": Command(settings=LearningSettings, run=_benchmark("benchmarks.learning", "benchmarks.learning")),
        "ledger": Command(settings=LedgerSettings, run=_benchmark("benchmarks.ledger", "benchmarks.ledger")),
        "telemetry": Command(
            settings=TelemetrySettings, run=_benchmark("benchmarks.telemetry.command", "benchmarks.telemetry.table")
        ),
    },
)


def main(arguments: Sequence[str] | None = None, *, called: str = CALLED) -> int:
    """The exit code."""
    return command_line.main(PROGRAM, sys.argv[1:] if arguments is None else arguments, called=called)


if __name__ == "__main__":
    sys.exit(main())
