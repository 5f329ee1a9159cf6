"""`python -m aggregator [COMMAND] …`, or `asyncfedkd aggregator …`: the aggregator and its commands.

Exit codes: 0 done, or stopped on request; 1 the link died (restart it); 2 an error that a restart does not fix; 130
interrupted by Ctrl-C before it was done.
"""

import json
import logging
import signal
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path

from aggregator.enrolment.settings import COMMANDS as ENROLMENT
from aggregator.initial_model import InitialModel, InitialModelError, read_initial_model
from aggregator.ledger.commands import (
    BackupSettings,
    CheckLedgerSettings,
    RestoreSettings,
    check,
    make_backup,
    put_back,
)
from aggregator.ledger.file_format import LedgerBusy
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import Totals, read_history, read_totals
from aggregator.ledger.records import row_of
from aggregator.ledger.renumber import move_forward
from aggregator.ledger.restoring import restore
from aggregator.ledger.retrying import retry_while_busy
from aggregator.lines.assembly import Opened, Running, metrics_file, next_line, service_of, settings_of_line, watch
from aggregator.lines.commands import BeginLineSettings, CloseLineSettings, begin, close
from aggregator.lines.ledgers import ledgers_of
from aggregator.lines.serving import Lines, Served
from aggregator.lines.shared_link import SharedLink
from aggregator.log_format import configure_logging
from aggregator.model_line import LineSettings, ModelLine, opening_release
from aggregator.service import subscriptions
from aggregator.settings import (
    AggregatorHealthSettings,
    MoveForwardSettings,
    RunSettings,
    SigningKeySettings,
    StatusSettings,
    health_file_of,
)
from aggregator.telemetry.assembly import open_telemetry, recording_of, second_connection
from aggregator.telemetry.settings import TelemetrySummarySettings
from aggregator.telemetry.summary import show_telemetry
from wire_contract.codec import encode
from wire_contract.limits import NAME_CHARACTERS_MAX
from wire_contract.line_description import labels_shown, other_buffer, other_labels
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.protocol import Link, Will
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.messages import AggregatorStatus
from wire_contract.program.blas_threads import limit_blas_threads
from wire_contract.program.command_line import Command, Program
from wire_contract.program.health import heartbeat
from wire_contract.program.health_command import show_health
from wire_contract.program.plain_text import printable, utc_time
from wire_contract.signatures.key_files import read_signing_keys, write_signing_key
from wire_contract.topics import build

log = logging.getLogger("aggregator")

_METRICS_SHOWN_MAX = 32
"""Metrics of an evaluation that `status` prints. Chosen: the recalls of a dozen classes and more, on a few lines."""


def run(settings: RunSettings) -> int:
    """Runs until SIGTERM or SIGINT."""
    configure_logging(sys.stderr, log_format=settings.log_format, level=settings.log_level)
    limit_blas_threads(1)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    line_settings = settings.line_settings()
    signing_keys = read_signing_keys(settings.signing_key)
    if not settings.ledger.exists():
        _first_model(settings)  # checked first, so that a failing start leaves no empty ledger behind
    with ExitStack() as at_the_end:
        beats = at_the_end.enter_context(
            closing(heartbeat("aggregator", settings.health_file or health_file_of(settings.ledger)))
        )
        metrics = metrics_file(settings)
        opened = retry_while_busy(
            lambda: _open(settings, line_settings),
            heartbeat=beats,
            pause=lambda seconds: _pause(stopped, seconds),
            should_stop=stopped.is_set,
        )
        if opened is None:
            log.info("stopped before the ledger could be opened")
            return 0
        at_the_end.enter_context(opened.ledger)
        log.info(
            "task %s: version %d, %d updates wait for the next version",
            settings.task,
            opened.line.version,
            opened.line.buffer.updates,
        )
        offline = AggregatorStatus(status="offline", version=opened.line.version)
        connection = settings.mqtt_settings(
            client_id=f"fedkd-aggregator-{settings.task}-{settings.shard}",
            subscriptions=subscriptions(root=settings.root, task=settings.task, shard=settings.shard),
            will=Will(
                build("aggregator", root=settings.root, task=settings.task, shard=settings.shard), encode(offline)
            ),
        )
        telemetry = open_telemetry(settings, ledger=settings.ledger, task=settings.task, shard=settings.shard)
        if telemetry is not None:
            at_the_end.enter_context(closing(telemetry))
        watching = None if telemetry is None else second_connection(connection, settings)
        link = at_the_end.enter_context(closing(MqttLink(connection)))
        shared = SharedLink(link, root=settings.root)
        program = Running(pause=lambda seconds: _pause(stopped, seconds), beats=beats, signing_keys=signing_keys)

        def serve(name: str, ledger: Path, line_link: Link) -> Served:
            own = settings_of_line(settings, name, ledger)
            return next_line(
                own,
                lambda: _open(own, own.line_settings()),
                line_link,
                link=link,
                connection=connection,
                program=program,
            )

        def begin_watching() -> None:
            if telemetry is not None and watching is not None:
                at_the_end.enter_context(closing(watch(telemetry, watching, settings)))

        recording = recording_of(telemetry, link, on_connected=begin_watching)
        service = service_of(
            settings, opened, shared.of(settings.task), recording=recording, metrics=metrics, program=program
        )
        first = Served(name=settings.task, service=service, ledger=opened.ledger, close=opened.ledger.close)
        lines = at_the_end.enter_context(
            closing(Lines(first, shared=shared, ledger=settings.ledger, serve=serve, monotonic=time.monotonic))
        )
        lines.run(stopped.is_set)
        lines.farewell()
    log.info("stopped at version %d", opened.line.version)
    return 0


def _open(settings: RunSettings, line_settings: LineSettings) -> Opened:
    """Opens the ledger and restores its content.

    Raises:
        LedgerBusy: it cannot be opened at the moment.
        LedgerError: it cannot be used.
        InitialModelError: the ledger is new, and there is no usable initial model.
    """
    with ExitStack() as unless_it_works:
        ledger = unless_it_works.enter_context(Ledger(settings.ledger, task=settings.task, shard=settings.shard))
        line = _line(ledger, settings, line_settings)
        totals, history = read_totals(settings.ledger), read_history(settings.ledger, now=time.time())
        unless_it_works.pop_all()
    return Opened(ledger=ledger, line=line, totals=totals, history=history)


def _line(ledger: Ledger, settings: RunSettings, line_settings: LineSettings) -> ModelLine:
    """Restores the model line; if the ledger is empty, starts one from the initial model."""
    if ledger.layout() is None:
        initial = _first_model(settings)
        first = opening_release(line_settings, initial.layout, initial.weights, published_at=time.time())
        ledger.begin_line(row_of(first), initial.layout, initial.weights, initial.line)
    elif settings.initial_model is not None and settings.initial_model.is_file():
        continue_line(ledger, settings.initial_model, task=settings.task)
    with suppress(LedgerBusy):  # needed by `status` only; the loop waits for a full disk
        ledger.note_devices_min(line_settings.devices_min)
    return restore(ledger, line_settings)


def continue_line(ledger: Ledger, path: Path, *, task: str) -> None:
    """Checks that the initial model at `path` is one of the ledger's line. The ledger of an older version, which says
    nothing of labels and fixed buffers, gets the file's description.

    Raises:
        InitialModelError: layout, labels or fixed buffers are others.
    """
    initial, described = read_initial_model(path, task=task, is_published=False), ledger.description()
    if initial.layout != ledger.layout():
        raise InitialModelError(
            f"initial model {path}: its layout is not the one of ledger {ledger.path}; a changed student begins the "
            f"next line: asyncfedkd aggregator begin-line --task {task} --ledger {ledger.path} --initial-model {path}"
        )
    if initial.line is None:
        return
    if described is None:
        ledger.describe_line(initial.line)
        log.info("ledger %s takes the labels of its line from %s", ledger.path, path)
        return
    other = other_labels(initial.line, described, mine="the file's", place="the ledger") or other_buffer(
        initial.line, described, mine="in the file", place="in the ledger"
    )
    if other is not None:
        raise InitialModelError(
            f"initial model {path}: not of the line of ledger {ledger.path}: {other}; a line with the same student and "
            "another meaning needs a new task name, or a new ledger and --replace-line"
        )


def _first_model(settings: RunSettings) -> InitialModel:
    """The initial model of a new line.

    Raises:
        InitialModelError: it is missing, or not a model of this task.
    """
    if settings.initial_model is None:
        raise InitialModelError(
            f"ledger {settings.ledger} is new: give --initial-model, a file made with: "
            f"asyncfedkd device initial-model --task {settings.task} --out initial.safetensors"
        )
    return read_initial_model(settings.initial_model, task=settings.task)


def _pause(stopped: threading.Event, seconds: float) -> None:
    stopped.wait(seconds)


def renumber(settings: MoveForwardSettings) -> None:
    """Runs `move-forward`."""
    before = move_forward(settings.ledger, version=settings.version, shard=settings.shard, unix=time.time)
    print(f"ledger {settings.ledger}: version {before} is now version {settings.version}, with the same weights")


def make_signing_key(settings: SigningKeySettings) -> None:
    """Runs `signing-key`."""
    key = write_signing_key(settings.out)
    print(f"key {key.public.key_id.hex()}: {settings.out} is private, {settings.out}.pub is for the devices")


def show_status(settings: StatusSettings) -> None:
    """Runs `status`."""
    first, *later = [read_totals(path) for path in ledgers_of(settings.ledger)]
    if settings.json_output:
        print(json.dumps({**asdict(first), "next_lines": [asdict(one) for one in later]}))
        return
    for totals in (first, *later):
        if totals is not first:
            print()
        for name, value in _lines(totals, now=time.time()):
            print(f"{name:<12} {value}")


def _lines(totals: Totals, *, now: float) -> list[tuple[str, object]]:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(totals.refused_by_reason.items()))
    updated = utc_time(totals.updated_at)
    if totals.updated_at > now + 60:
        updated += " (in the future: the aggregator's clock was ahead then, or this one is behind)"
    if not totals.begun:
        how = "none: the aggregator has never run on this ledger; start it with --initial-model"
        return [("task", totals.task), ("version", how)]
    lines: list[tuple[str, object]] = [
        ("task", totals.task),
        ("labels", labels_shown(totals.labels, count=totals.label_count)),
        ("version", totals.version),
        *([] if totals.closed_at is None else [("closed", utc_time(totals.closed_at))]),
        ("devices", totals.devices),
        ("merged", f"{totals.merged} updates, {totals.bytes_in} bytes; {totals.waiting} wait for the next version"),
        *_missing(totals),
        ("duplicates", totals.duplicates),
        ("refused", f"{totals.refused} ({reasons})" if reasons else totals.refused),
        ("updated", updated),
    ]
    if totals.evaluated_version is not None:
        lines.append(("evaluation", f"version {totals.evaluated_version}: {_metrics(totals)}"))
    return lines


def _missing(totals: Totals) -> list[tuple[str, object]]:
    if totals.devices_min is None or not totals.waiting or totals.closed_at is not None:
        return []
    missing = totals.devices_min - totals.waiting_devices
    devices = "device" if missing == 1 else "devices"
    return [("missing", f"{missing} more {devices} for the next version (--devices-min)")] if missing > 0 else []


def _metrics(totals: Totals) -> str:
    """The metrics of the newest evaluated version, the main one first; evaluators choose their names and number."""
    main = MainMetric(totals.main_metric, totals.higher_is_better)
    names = sorted(totals.evaluation, key=lambda name: (name != main.name, name))
    told = [
        f"{printable(name[:NAME_CHARACTERS_MAX])} {totals.evaluation[name]:.4g}"
        + (f" ({main.direction})" if name == main.name != ACCURACY.name else "")
        for name in names[:_METRICS_SHOWN_MAX]
    ]
    left = len(names) - len(told)
    return ", ".join([*told, *([f"and {left} more (--json shows all)"] if left else [])])


PROGRAM = Program(
    name="aggregator",
    started_as="python -m aggregator",
    summary="Merges updates, publishes versioned models, and issues keys to clients.",
    commands={
        "run": Command(settings=RunSettings, run=run),
        "status": Command(settings=StatusSettings, run=show_status),
        "health": Command(
            settings=AggregatorHealthSettings,
            run=lambda settings: show_health(settings, usual=health_file_of(settings.ledger)),
        ),
        "telemetry": Command(settings=TelemetrySummarySettings, run=show_telemetry),
        "backup": Command(settings=BackupSettings, run=make_backup),
        "restore": Command(settings=RestoreSettings, run=put_back),
        "check-ledger": Command(settings=CheckLedgerSettings, run=check),
        "begin-line": Command(settings=BeginLineSettings, run=begin),
        "close-line": Command(settings=CloseLineSettings, run=close),
        "move-forward": Command(settings=MoveForwardSettings, run=renumber),
        "signing-key": Command(settings=SigningKeySettings, run=make_signing_key),
        **{
            name: Command(settings=settings, run="aggregator.enrolment.commands:carry_out")
            for name, settings in ENROLMENT.items()
        },
    },
    default="run",
)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(main())
