"""The demo as a command: signals, errors, and the exit code.

Exit codes: 0, success; 1, a program failed or a guarantee did not hold; 2, a problem that the user can fix, reported in
one line; 128 + signal number, interrupted.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from simulators.demo.settings import LAST_PAGE, REPORT, SUMMARY, DemoSettings
from simulators.processes.processes import ProcessError, Processes
from simulators.reporting.live_view import View, make_view
from simulators.reporting.metric_text import words
from simulators.reporting.results import RunResults, summary
from wire_contract.errors import ContractError

PRELOADED = (
    "device_client.commands.run",
    "device_client.tasks.physiotherapy",
    "simulators.demo.baselines",
    "operations.doctor.settings",
    "operations.watch.settings",
)
"""Modules of the programs that train; the fork server imports them once for all."""


class CannotRun(Exception):
    """A problem that the user can fix; the message is one line."""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """The first SIGINT or SIGTERM raises `Interrupted`; further ones are ignored while the programs are stopped."""
    handled = (signal.SIGINT, signal.SIGTERM)

    def handle(number: int, _frame: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.signal(number, handle) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(settings: DemoSettings) -> int:
    """Runs the demo; returns the exit code."""
    began = time.monotonic()
    try:
        with interruptible(), make_view(plain=settings.plain) as view, ExitStack() as resources:
            folder = fresh_folder(settings.out)
            processes = resources.enter_context(Processes(folder / "logs", preload=PRELOADED))
            results = _perform(settings, folder, view, processes, resources, began=began)
    except Interrupted as interruption:
        print(f"demo: stopped by {interruption}; all its programs have ended", file=sys.stderr)
        return 128 + interruption.number
    except ProcessError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except (CannotRun, ContractError) as error:
        print(f"demo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"demo: {error.filename or settings.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    results.phases["report"] = time.monotonic() - began - sum(results.phases.values())
    results.seconds = time.monotonic() - began
    results.cpu_seconds = cpu_seconds()
    return conclude(results, settings.out)


def fresh_folder(out: Path) -> Path:
    """An empty folder for what the programs write.

    Results of an earlier run are deleted: its ledger would be continued, and its report would be mistaken for this
    run's if this run fails.
    """
    folder = out / "run"
    if (folder / "logs").is_dir():
        shutil.rmtree(folder)
        for name in (REPORT, LAST_PAGE, SUMMARY):
            (out / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _perform(
    settings: DemoSettings, folder: Path, view: View, processes: Processes, resources: ExitStack, *, began: float
) -> RunResults:
    """Runs all stages and writes the report.

    Raises:
        CannotRun: the task, its data or its models are unusable.
    """
    # Imported here, after the fork server was started: both import torch for seconds, now at the same time.
    from device_client.model_files import ModelFileError  # noqa: PLC0415
    from device_client.task import TaskError  # noqa: PLC0415
    from simulators.demo.run import DemoRun  # noqa: PLC0415
    from simulators.reporting.report import write_report  # noqa: PLC0415

    try:
        results = DemoRun(settings, folder, view, processes, resources, began=began).run()
    except (TaskError, ModelFileError) as error:
        raise CannotRun(str(error)) from None
    write_report(results, settings.out / REPORT)
    return results


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _compared(results: RunResults) -> str:
    """The baselines beside the main metric, as far as they were measured."""
    text = results.baselines.text
    pooled, alone = results.baselines.pooled(), results.baselines.local_mean()
    measured, devices = len(results.baselines.local), len(results.devices)
    of = f", mean of {measured} of {devices}" if measured != devices else ""
    owner = results.nouns.owner
    return (
        f"pooled data {'missing' if pooled is None else text(pooled)},"
        f" one {owner} alone {'missing' if alone is None else text(alone) + of}"
    )


def conclude(results: RunResults, out: Path) -> int:
    """Writes the summary, prints it in a few lines, and returns 1 if a guarantee did not hold."""
    facts = summary(results)
    (out / SUMMARY).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(
        f"\n{words(results.main)} {results.baselines.text(results.value)} on unseen {results.nouns.person}s"
        f" ({_compared(results)})"
        + (f"\nmissing: {', '.join(results.missing)}; {results.baselines.given_up}" if results.missing else "")
        + f"\n{facts['versions']} versions; {results.audit}; {facts['duplicates']} duplicates"
        f"\n{facts['bytes_up'] / 1e6:.2f} MB up, {facts['bytes_down'] / 1e6:.2f} MB down, {facts['seconds']:.0f} s"
        f"\nreport: {out / REPORT}"
        + (f"\nfinal state of the page: {out / LAST_PAGE}" if (out / LAST_PAGE).is_file() else "")
    )
    failures = []
    if not results.audit.agrees:
        failures.append(str(results.audit))
    if not results.wire.is_student_only:
        failures.append("a payload may have contained more than the student; see summary.json")
    for failure in failures:
        print(f"demo: {failure}", file=sys.stderr)
    return 1 if failures else 0
