"""Creates telemetry from the settings of the aggregator."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aggregator.ledger.reading import read_shares
from aggregator.telemetry import broker_watch
from aggregator.telemetry.broker_watch import BrokerWatch, Sightings
from aggregator.telemetry.collecting import Telemetry
from aggregator.telemetry.influx import InfluxServer
from aggregator.telemetry.participation import Participation, Share
from aggregator.telemetry.recording import Recording
from aggregator.telemetry.settings import TelemetrySettings
from aggregator.telemetry.spool import Spool
from wire_contract.errors import LinkError
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings, Tls
from wire_contract.program.command_settings import UsageError

log = logging.getLogger(__name__)


def open_telemetry(settings: TelemetrySettings, *, ledger: Path, task: str, shard: int) -> Telemetry | None:
    """Telemetry that continues from ledger and spool; None if it is switched off.

    Raises:
        SpoolError: the spool cannot be used.
        UsageError: the token file or a TLS file cannot be used.
        LinkError: the environment names a proxy that is none.
        LedgerError: the ledger cannot be read.
    """
    if not settings.telemetry:
        return None
    access = settings.influx_access()
    server = None if access is None else InfluxServer(access)
    shares = {device: Share(weight, merged_at) for device, weight, merged_at in read_shares(ledger)}
    return Telemetry(
        Spool(settings.spool_of(ledger), bytes_max=settings.telemetry_spool_bytes_max),
        task=task,
        shard=shard,
        server=server,
        flush_seconds=settings.telemetry_flush_seconds,
        participation=Participation(shares),
    )


def recording_of(telemetry: Telemetry | None, link: MqttLink, *, on_connected: Callable[[], None]) -> Recording:
    """Recording for the service on this link; `on_connected` is called once, at its first connection."""
    if telemetry is None:
        return Recording()
    return Recording(
        telemetry.record, queue_depth=lambda: link.waiting, traffic=lambda: link.traffic, on_connected=on_connected
    )


def second_connection(connection: MqttSettings, settings: TelemetrySettings) -> MqttSettings | None:
    """Credentials for watching the broker beside the aggregator's own `connection`; None: the broker is not watched.

    A broker that goes by the certificate takes its name for the client id: a second connection under the same name
    would end the first, which would come back and end the second, for ever.

    Raises:
        UsageError: the certificate or its key cannot be used.
    """
    if settings.telemetry_certificate is not None:
        tls = replace(
            connection.tls if isinstance(connection.tls, Tls) else Tls(),
            certificate_file=settings.telemetry_certificate,
            key_file=settings.telemetry_key,
        )
        try:
            tls.context()
        except LinkError as error:
            raise UsageError(str(error)) from None
        return replace(connection, tls=tls)
    if isinstance(connection.tls, Tls) and connection.tls.certificate_file is not None:
        log.info("telemetry has no presence and $SYS: give it a certificate of its own (--telemetry-certificate)")
        return None
    return connection


def watch_broker(
    telemetry: Telemetry,
    connection: MqttSettings,
    *,
    root: str,
    task: str,
    shard: int,
    shards: int,
    connect: Callable[[MqttSettings], MqttLink] = MqttLink,
) -> BrokerWatch:
    """Watches the broker as another client; `connection` is the aggregator's own."""
    visitor = replace(
        connection,
        client_id=f"{connection.client_id}-telemetry",
        subscriptions=(),
        will=None,
        clean_start=True,
        session_expiry_seconds=0,
        close_seconds_max=1.0,
    )
    return BrokerWatch(
        connect(visitor),
        Sightings(root=root, shard=shard, shards=shards),
        telemetry.record,
        filters=broker_watch.filters(root=root, task=task),
    )
