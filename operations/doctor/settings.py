"""Flags of `asyncfedkd doctor`. Each can also be set as an environment variable FEDKD_…; the flag takes precedence."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AliasChoices, Field, SecretStr

from operations.doctor.finding import Broker
from wire_contract.errors import TopicError
from wire_contract.settings import ConnectionSettings, check_broker
from wire_contract.topics import check_name

PROBE_PREFIX = "doctor"


def _websocket(url: str) -> str:
    if url and not url.startswith(("ws://", "wss://")):
        raise ValueError("must be like ws://host:port/mqtt or wss://…")
    return check_broker(url) if url else url


def _name(name: str) -> str:
    try:
        return check_name(name, "device") if name else name
    except TopicError as error:
        raise ValueError(str(error)) from None


def _probe_task(name: str) -> str:
    if name and not name.startswith(PROBE_PREFIX):
        raise ValueError(f"must begin with {PROBE_PREFIX}, so that no task in use is disturbed")
    return _name(name)


class DoctorSettings(ConnectionSettings):
    """Checks whether a broker has what the programs need, and names the setting that fixes what is missing."""

    flag_groups = {  # noqa: RUF012 — see CommandSettings
        "probe_task": "probes",
        "aggregator_username": "the aggregator's user",
        "kind": "report",
        "websocket": "probes",
        "json_file": "report",
    }

    task: str = Field("", description="not used: the checks have their own task, so that they disturb no other")
    client_id: str | None = Field(None, description="not used: the checks have their own client ids")
    probe_task: Annotated[str, AfterValidator(_probe_task)] = Field(
        "",
        description="task of the checks, doctor…; default: a new one each time. For access lists that name each task",
    )
    device: Annotated[str, AfterValidator(_name)] = Field(
        "",
        description="name of the device whose credentials are given; default: the user name. With certificate: its CN",
    )
    aggregator_username: str | None = Field(
        None, description="user of the aggregator; with it, both sides of the access list are checked"
    )
    aggregator_password: SecretStr | None = Field(
        None, description="password of the aggregator; better set FEDKD_AGGREGATOR_PASSWORD, or use a file"
    )
    aggregator_password_file: Path | None = Field(
        None, description="file whose first line is the aggregator's password"
    )
    aggregator_certificate: Path | None = Field(None, description="PEM file of the aggregator's certificate chain")
    aggregator_key: Path | None = Field(None, description="PEM file of the aggregator's private key")
    kind: Broker | None = Field(
        None, description="mosquitto, EMQX, HiveMQ or NATS: whose settings to name; default: as the broker reports"
    )
    websocket: Annotated[str, AfterValidator(_websocket)] = Field(
        "", description="URL of the broker's WebSocket listener, ws://host:port/mqtt; default: not checked"
    )
    queue_messages: int = Field(
        3_000, ge=10, le=10_000, description="how many small messages the broker must keep for an offline client"
    )
    json_file: Path | None = Field(
        None, validation_alias=AliasChoices("json"), description="file for the findings as JSON"
    )
