"""`python -m benchmarks NAME --json FILE …`: runs one measurement, prints its table and writes its figures."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import communication, communication_table, learning, telemetry
from device_client.task import TaskError

Figures = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One row of the table."""

    says: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Figures]
    table: Callable[[Figures], str]


BENCHMARKS: Mapping[str, Benchmark] = {
    "communication": Benchmark(
        "bytes on the wire against accuracy: FedAvg, FedKD as published, and ours at several budgets",
        communication.add_arguments,
        communication.run,
        communication_table.table,
    ),
    "learning": Benchmark(
        "accuracy on unseen persons: asynchronous federated against centralised, local-only and synchronous FedAvg",
        learning.add_arguments,
        learning.run,
        learning.table,
    ),
    "telemetry": Benchmark(
        "updates per second with telemetry on and off, and with its server stopped; series of a large fleet",
        telemetry.add_arguments,
        telemetry.run,
        telemetry.table,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line when the task or its data cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, benchmark in BENCHMARKS.items():
        one = names.add_parser(name, help=benchmark.says, description=benchmark.says)
        one.add_argument("--json", type=Path, help="file for the figures")
        benchmark.add_arguments(one)
    chosen = parser.parse_args(arguments)
    benchmark = BENCHMARKS[chosen.name]
    try:
        figures = benchmark.run(chosen)
    except TaskError as error:
        print(f"benchmark {chosen.name}: {error}", file=sys.stderr)
        return 2
    print(benchmark.table(figures))
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
