"""Flags of `python -m simulators watch`, and what the page is told of them."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from device_client.settings import OptionalBrokerUrl
from wire_contract.errors import LinkError
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.program.command_settings import CommandSettings, UsageError
from wire_contract.settings import TaskName, TopicRoot, read_password_file
from wire_contract.topics import DEFAULT_ROOT

PORT = 8090
"""Where the page is, if nothing else is there."""


def check_websocket(url: str) -> str:
    """`url`, if a browser can reach a broker with it; empty stays empty.

    Raises:
        ValueError: it is of another kind, or holds a user or a password; one line without either.
    """
    if not url:
        return url
    try:
        MqttSettings.from_url(url, client_id="any")
    except LinkError as error:
        raise ValueError(str(error)) from None
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss"}:
        raise ValueError("must begin with ws:// or wss://, as a browser speaks MQTT over WebSocket only")
    if "@" in parts.netloc:
        raise ValueError("must hold neither user nor password; give --username, and --password-file or type it")
    return url


WebsocketUrl = Annotated[str, AfterValidator(check_websocket)]
WEBSOCKET_HELP = "URL of the broker's WebSocket listener, ws://host:port/path"


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """What the page reads first, as JSON."""

    websocket: str
    root: str
    task: str | None
    """None: every task below the root."""
    username: str | None = None
    """None: nobody in particular."""
    password: str | None = field(default=None, repr=False)
    """None, with a user name: the page asks."""
    report: str = ""
    """Where the report of a demo will be; empty: what is shown is no demo, and may go on for ever."""
    ended_at: float | None = None
    """Unix seconds at which a demo ended; None: it goes on. Afterwards the page connects to nobody."""
    messages: Sequence[tuple[str, str]] = ()
    """Topic and payload in base64 of what the demo's broker had retained by then."""

    def ended(self, messages: Mapping[str, bytes], at: float) -> "PageConfig":
        """What a client is told after the end."""
        told = tuple((topic, b64encode(payload).decode()) for topic, payload in messages.items())
        return replace(self, ended_at=at, messages=told, username=None, password=None)


class WatchSettings(CommandSettings):
    """A page in the browser that shows a task live: accuracy, versions, staleness, devices."""

    broker: OptionalBrokerUrl = Field("", description="broker URL as for the other programs; ws:// or wss:// suffices")
    websocket: WebsocketUrl = Field("", description=f"{WEBSOCKET_HELP}; needed when --broker is not one")
    task: TaskName | None = Field(None, description="the task to show; else each below the root can be chosen")
    root: TopicRoot = Field(DEFAULT_ROOT, description="first levels of every topic")
    username: str | None = Field(None, min_length=1, description="user name; best of a user who may only read")
    password_file: Path | None = Field(
        None,
        description="file whose first line is the password; else the one in the broker's URL; without either the page "
        "asks for it where a user name is given",
    )
    port: int = Field(PORT, ge=0, le=65_535, description="port of the loopback for the page; 0: a free one")

    def page_config(self) -> PageConfig:
        """What the page is told.

        Raises:
            UsageError: a browser cannot reach the broker with these settings; one line.
        """
        url = self.broker or self.websocket
        if not url:
            raise UsageError("--websocket is missing: where the broker listens for WebSocket, ws://host:port/path")
        broker = MqttSettings.from_url(url, client_id="any")
        username = self.username or broker.username
        if self.password_file is not None and username is None:
            raise UsageError("--password-file: whose password is it? give --username")
        return PageConfig(
            websocket=self.websocket or self._websocket_of(broker),
            root=self.root,
            task=self.task,
            username=username,
            password=broker.password if self.password_file is None else read_password_file(self.password_file),
        )

    def _websocket_of(self, broker: MqttSettings) -> str:
        scheme = urlsplit(self.broker).scheme
        if scheme not in {"ws", "wss"}:
            raise UsageError(
                "--websocket is missing: a browser speaks MQTT over WebSocket only; give the URL of that listener,"
                " ws://host:port/path (in mosquitto.conf: a listener of its own with `protocol websockets`)"
            )
        host = f"[{broker.host}]" if ":" in broker.host else broker.host
        return f"{scheme}://{host}:{broker.port}{broker.websocket_path}"
