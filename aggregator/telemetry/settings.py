"""Settings of telemetry: flags, or environment variables with the prefix FEDKD_."""

from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from aggregator.telemetry.influx import InfluxAccess
from aggregator.telemetry.spool import SPOOL_BYTES_MIN
from wire_contract.errors import FileUnusable, LinkError
from wire_contract.limits import MIB
from wire_contract.link.mqtt_settings import Tls
from wire_contract.program.command_settings import CommandSettings, UsageError


def _url(url: str) -> str:
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port is not False
    except ValueError:
        known = False
    if not known or parts.username or parts.query or parts.fragment:
        raise ValueError(
            "must be like http://localhost:8086, without a user name; the token belongs in --influx-token-file"
        )
    return url.rstrip("/")


class TelemetrySettings(CommandSettings):
    """Settings of telemetry, for `run`."""

    flag_groups = {"telemetry": "telemetry", "influx_url": "InfluxDB"}  # noqa: RUF012 — see CommandSettings

    telemetry: bool = Field(
        True, description="record telemetry for people and dashboards; costs about 2 % of full load"
    )
    telemetry_spool: Path | None = Field(
        None,
        description="folder for points until they are sent, or for good without a server; default: LEDGER.telemetry",
    )
    telemetry_spool_bytes_max: int = Field(
        64 * MIB,
        ge=SPOOL_BYTES_MIN,
        description="size of the spool; when it is full, the oldest points are dropped, bytes",
    )
    """At some 260 bytes a line, 64 MiB are 250,000 points."""
    telemetry_flush_seconds: float = Field(
        1.0, ge=0.05, le=60, description="interval at which points are written to the spool and sent, seconds"
    )
    telemetry_certificate: Path | None = Field(
        None,
        description="PEM file of a second certificate, for the connection that receives presence and the broker's "
        "statistics: brokers that identify clients by certificate accept each name once; without it, these are missing",
    )
    telemetry_key: Path | None = Field(None, description="PEM file of its private key")
    influx_url: Annotated[str, AfterValidator(_url)] | None = Field(
        None, description="InfluxDB 1.8 or later, 2 or 3: http[s]://host:8086; without it points stay in the spool"
    )
    influx_token_file: Path | None = Field(
        None,
        description="file whose first line is the token (InfluxDB 1.8: user:password); read again when it changes",
    )
    influx_ca: Path | None = Field(
        None, description="PEM file of the authorities to trust for https; default: the system's"
    )
    influx_certificate: Path | None = Field(
        None, description="PEM file of a client certificate, if the server or its proxy requires one"
    )
    influx_key: Path | None = Field(None, description="PEM file of its private key")
    influx_org: str = Field("fedkd", min_length=1, description="organisation; ignored by InfluxDB 1.8 and 3")
    influx_bucket: str = Field(
        "fedkd", min_length=1, description="bucket; for InfluxDB 1.8 database/retention-policy, for 3 the database"
    )

    @model_validator(mode="after")
    def _token_has_a_server(self) -> Self:
        if self.influx_token_file is not None and self.influx_url is None:
            raise ValueError("--influx-token-file needs --influx-url")
        return self

    @model_validator(mode="after")
    def _tls_has_an_encrypted_server(self) -> Self:
        given = self.influx_ca or self.influx_certificate or self.influx_key
        if given and not (self.influx_url or "").startswith("https:"):
            raise ValueError("--influx-ca, --influx-certificate and --influx-key need an --influx-url with https://")
        return self

    @model_validator(mode="after")
    def _key_has_a_certificate(self) -> Self:
        if (self.telemetry_key is None) != (self.telemetry_certificate is None):
            raise ValueError("--telemetry-certificate and --telemetry-key belong together")
        return self

    def spool_of(self, ledger: Path) -> Path:
        """The folder of the spool."""
        return default_spool(ledger) if self.telemetry_spool is None else self.telemetry_spool

    def influx_access(self) -> InfluxAccess | None:
        """The server, after its files have been checked; None if there is none.

        Raises:
            UsageError: a file cannot be used.
        """
        if self.influx_url is None:
            return None
        tls = Tls(ca_file=self.influx_ca, certificate_file=self.influx_certificate, key_file=self.influx_key)
        access = InfluxAccess(
            url=self.influx_url,
            org=self.influx_org,
            bucket=self.influx_bucket,
            token_file=self.influx_token_file,
            tls=tls if tls.files else None,
        )
        try:
            access.read_token()
            access.context()
        except (FileUnusable, LinkError) as error:
            raise UsageError(str(error)) from None
        return access


class TelemetrySummarySettings(CommandSettings):
    """Shows the content of an aggregator's telemetry spool, even while it runs."""

    ledger: Path = Field(Path("ledger.sqlite3"), description="the aggregator's ledger; its spool lies beside it")
    spool: Path | None = Field(None, description="the spool's folder, if it is elsewhere")
    measurement: str | None = Field(None, description="show only this measurement, such as fedkd_update")
    csv: Path | None = Field(
        None, description="write the points to this file, one column per tag and field; - is standard output"
    )

    @property
    def folder(self) -> Path:
        """The folder of the spool."""
        return default_spool(self.ledger) if self.spool is None else self.spool


def default_spool(ledger: Path) -> Path:
    """Default folder of the spool, beside the ledger."""
    return ledger.with_name(ledger.name + ".telemetry")
