"""Flags of `python -m simulators doctor`; as everywhere, FEDKD_… variables are the same, and the flag wins."""

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
        raise ValueError(f"must begin with {PROBE_PREFIX}, so that no task that is in use is disturbed")
    return _name(name)


class DoctorSettings(ConnectionSettings):
    """Looks whether a broker has what the contract needs, and says which setting mends what is missing."""

    flag_groups = {  # noqa: RUF012 — see CommandSettings
        "probe_task": "probes",
        "aggregator_username": "the aggregator's user",
        "kind": "report",
        "websocket": "probes",
        "json_file": "report",
    }

    task: str = Field("", description="not used: the probes have a task of their own, so that they disturb none")
    client_id: str | None = Field(None, description="not used: the probes have client ids of their own")
    probe_task: Annotated[str, AfterValidator(_probe_task)] = Field(
        "", description="task of the probes, doctor…; else a new one each time. For access lists that name each task"
    )
    device: Annotated[str, AfterValidator(_name)] = Field(
        "", description="name of the device whose user is given; else the user name. With a certificate: its CN"
    )
    aggregator_username: str | None = Field(
        None, description="user of the aggregator; with it both sides of the access list are looked at"
    )
    aggregator_password: SecretStr | None = Field(
        None, description="password of the aggregator; better in FEDKD_AGGREGATOR_PASSWORD or a file"
    )
    aggregator_password_file: Path | None = Field(None, description="file whose first line is that password")
    aggregator_certificate: Path | None = Field(None, description="PEM file of the aggregator's certificate chain")
    aggregator_key: Path | None = Field(None, description="PEM file of the aggregator's private key")
    kind: Broker | None = Field(
        None, description="mosquitto, EMQX, HiveMQ or NATS: whose settings to name; else what the broker says it is"
    )
    websocket: Annotated[str, AfterValidator(_websocket)] = Field(
        "", description="URL of the broker's WebSocket listener, ws://host:port/mqtt; else it is not looked at"
    )
    queue_messages: int = Field(
        3_000, ge=10, le=10_000, description="so many small messages must be kept for a client that is away"
    )
    json_file: Path | None = Field(
        None, validation_alias=AliasChoices("json"), description="file for the findings, as JSON"
    )
