"""The demo as a command: how it ends, however it ends.

Exit codes: 0 all went well; 1 a program failed, or what was measured is not what is promised; 2 something that the user
can mend, in one line; 128 + signal when interrupted.
"""

import json
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from device_client.model_files import ModelFileError
from device_client.task import TaskError
from simulators.demo_settings import DemoSettings
from simulators.live_view import make_view
from simulators.processes import ProcessError
from simulators.record import Record, summary
from simulators.report import write_report
from simulators.stages import Stages
from wire_contract.errors import ContractError


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """The first signal ends the work in order; further ones do not disturb the tidying up."""
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
    """The demo; returns the exit code."""
    began = time.monotonic()
    try:
        with interruptible(), make_view(plain=settings.plain) as view, ExitStack() as resources:
            record = Stages(settings, view, resources).run()
            write_report(record, settings.out / "report.html")
    except Interrupted as interruption:
        print(f"demo: stopped by {interruption}; every program of it has ended", file=sys.stderr)
        return 128 + interruption.number
    except ProcessError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except (TaskError, ModelFileError, ContractError) as error:
        print(f"demo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"demo: {error.filename or settings.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    record.phases["report"] = time.monotonic() - began - sum(record.phases.values())
    record.seconds = time.monotonic() - began
    record.cpu_seconds = cpu_seconds()
    return conclude(record, settings.out)


def cpu_seconds() -> float:
    """Computing of this program and of those that it started and that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def conclude(record: Record, out: Path) -> int:
    """Writes what was measured, says it in a few lines, and whether it is as promised."""
    facts = summary(record)
    (out / "summary.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(
        f"\naccuracy {facts['accuracy']:.1%} on persons never seen"
        f" (pooled data {facts['accuracy_centralised']:.1%}, one person alone {facts['accuracy_local_mean']:.1%})"
        f"\n{facts['versions']} versions; {record.balance}; {facts['duplicates']} duplicates"
        f"\n{facts['bytes_up'] / 1e6:.2f} MB up, {facts['bytes_down'] / 1e6:.2f} MB down, {facts['seconds']:.0f} s"
        f"\nreport: {out / 'report.html'}"
    )
    failures = []
    if not record.balance.agrees:
        failures.append(str(record.balance))
    if not record.wire.is_student_only:
        failures.append("something other than the student may have gone over the wire; see summary.json")
    for failure in failures:
        print(f"demo: {failure}", file=sys.stderr)
    return 1 if failures else 0
