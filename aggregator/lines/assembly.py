"""Puts the parts of a served line together, from the settings of the aggregator."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from aggregator.enrolment.roles import is_evaluator
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import Totals
from aggregator.lines.ledgers import path_of_line
from aggregator.lines.serving import Served
from aggregator.metrics_file import MetricsFile
from aggregator.model_line import ModelLine
from aggregator.service import Service, subscriptions
from aggregator.settings import RunSettings
from aggregator.status import StatusHistory
from aggregator.telemetry.assembly import open_telemetry, second_connection, watch_broker
from aggregator.telemetry.broker_watch import BrokerWatch
from aggregator.telemetry.collecting import Telemetry
from aggregator.telemetry.recording import Recording
from wire_contract.client_ids import client_id_below
from wire_contract.lines import line_number
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.link.protocol import Link
from wire_contract.program.clock import SYSTEM_CLOCK
from wire_contract.program.health import Heartbeat
from wire_contract.signatures.signing import SigningKey


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A ledger, and what was restored from it."""

    ledger: Ledger
    line: ModelLine
    totals: Totals
    history: StatusHistory


@dataclass(frozen=True, kw_only=True)
class Running:
    """What the lines of one program share, beside the connection."""

    pause: Callable[[float], None]
    beats: Heartbeat
    signing_keys: Sequence[SigningKey]


def service_of(
    settings: RunSettings,
    opened: Opened,
    link: Link,
    *,
    recording: Recording,
    metrics: MetricsFile | None,
    program: Running,
) -> Service:
    """The service of a line over its link."""
    return Service(
        opened.line,
        opened.ledger,
        link,
        root=settings.root,
        totals=opened.totals,
        history=opened.history,
        clock=SYSTEM_CLOCK,
        pause=program.pause,
        signing_keys=program.signing_keys,
        model_lifetime_seconds=settings.model_lifetime_seconds,
        recording=recording,
        replace_line=settings.replace_line,
        is_evaluator=lambda name: is_evaluator(name) or name in settings.evaluator,
        heartbeat=program.beats,
        metrics=metrics,
    )


def settings_of_line(settings: RunSettings, name: str, ledger: Path) -> RunSettings:
    """The settings of a later line: those of the first, with files and a connection for telemetry of its own."""
    number = line_number(name, task=settings.task)
    assert number is not None
    beside = {
        field: path_of_line(file, number)
        for field in ("metrics_file", "telemetry_spool")
        if (file := getattr(settings, field)) is not None
    }
    return settings.model_copy(
        update={"task": name, "ledger": ledger, "initial_model": None, "replace_line": False, **beside}
    )


def next_line(
    settings: RunSettings,
    open_ledger: Callable[[], Opened],
    line_link: Link,
    *,
    link: MqttLink,
    connection: MqttSettings,
    program: Running,
) -> Served:
    """Opens a line after the first one.

    Args:
        settings: of `settings_of_line`.
        open_ledger: opens its ledger.
        line_link: its share of `link`.
        link: the connection of all lines.
        connection: how `link` connects.
        program: what it shares with the other lines.

    Raises:
        ContractError: its ledger, or a file that belongs to it, cannot be used.
    """
    with ExitStack() as of_the_line:
        opened = open_ledger()
        of_the_line.enter_context(opened.ledger)
        metrics = metrics_file(settings)
        telemetry = open_telemetry(settings, ledger=settings.ledger, task=settings.task, shard=settings.shard)
        recording = Recording()
        if telemetry is not None:
            of_the_line.enter_context(closing(telemetry))
            # Traffic is counted per connection, so it stands in the telemetry of the first line. The certificate for
            # watching the broker is in use there, too.
            watching = None if settings.telemetry_certificate else second_connection(connection, settings)
            if watching is not None:
                name = f"fedkd-aggregator-{settings.task}-{settings.shard}"
                watching = replace(watching, client_id=client_id_below(name, settings.root))
                of_the_line.enter_context(closing(watch(telemetry, watching, settings)))
            recording = Recording(telemetry.record, queue_depth=lambda: link.waiting)
        for topic_filter in subscriptions(root=settings.root, task=settings.task, shard=settings.shard):
            line_link.subscribe(topic_filter)
        service = service_of(settings, opened, line_link, recording=recording, metrics=metrics, program=program)
        close = of_the_line.pop_all().close
    return Served(name=settings.task, service=service, ledger=opened.ledger, close=close)


def metrics_file(settings: RunSettings) -> MetricsFile | None:
    """The file for Prometheus, if there is to be one."""
    if settings.metrics_file is None:
        return None
    return MetricsFile(settings.metrics_file, task=settings.task, shard=settings.shard)


def watch(telemetry: Telemetry, connection: MqttSettings, settings: RunSettings) -> BrokerWatch:
    """Watches the broker beside a line's own connection."""
    return watch_broker(
        telemetry, connection, root=settings.root, task=settings.task, shard=settings.shard, shards=settings.shards
    )
