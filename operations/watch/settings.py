"""Flags of `asyncfedkd watch`, and the configuration of the page."""

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
"""Default port of the page."""


def check_websocket(url: str) -> str:
    """Returns `url` if a browser can connect to a broker with it; empty stays empty.

    Raises:
        ValueError: another scheme, or it contains a user or a password; one line that quotes neither.
    """
    if not url:
        return url
    try:
        MqttSettings.from_url(url, client_id="any")
    except LinkError as error:
        raise ValueError(str(error)) from None
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss"}:
        raise ValueError("must begin with ws:// or wss://, because browsers speak MQTT only over WebSocket")
    if "@" in parts.netloc:
        raise ValueError("must contain neither user nor password; give --username, and --password-file or type it")
    return url


WebsocketUrl = Annotated[str, AfterValidator(check_websocket)]
WEBSOCKET_HELP = "URL of the broker's WebSocket listener, ws://host:port/path"


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """What the page loads first, as JSON."""

    websocket: str
    root: str
    task: str | None
    """None: all tasks below the root."""
    username: str | None = None
    """None: connects without a user."""
    password: str | None = field(default=None, repr=False)
    """None with a user name: the page asks for it."""
    report: str = ""
    """Path of a demo's report; empty: not a demo, the page runs without an end."""
    ended_at: float | None = None
    """End of the demo, Unix seconds; after it the page does not connect. None: still running."""
    messages: Sequence[tuple[str, str]] = ()
    """Topic and base64 payload of each message that the demo's broker had retained at the end."""

    def ended(self, messages: Mapping[str, bytes], at: float) -> "PageConfig":
        """The configuration after the end of a demo."""
        told = tuple((topic, b64encode(payload).decode()) for topic, payload in messages.items())
        return replace(self, ended_at=at, messages=told, username=None, password=None)


class WatchSettings(CommandSettings):
    """Serves a page that shows a task live in the browser: accuracy, versions, staleness, devices."""

    broker: OptionalBrokerUrl = Field("", description="broker URL as for the other programs; ws:// or wss:// is enough")
    websocket: WebsocketUrl = Field("", description=f"{WEBSOCKET_HELP}; needed when --broker is not one")
    task: TaskName | None = Field(
        None, description="the task to show; default: all tasks below the root, to choose from"
    )
    root: TopicRoot = Field(DEFAULT_ROOT, description="topic prefix")
    username: str | None = Field(None, min_length=1, description="user name; preferably of a user who may only read")
    password_file: Path | None = Field(
        None,
        description="file whose first line is the password; default: the one in the broker's URL; without either, the "
        "page asks for it if a user name is given",
    )
    port: int = Field(
        PORT, ge=0, le=65_535, description="port for the page on the loopback interface; 0: any free port"
    )

    def page_config(self) -> PageConfig:
        """The page's configuration.

        Raises:
            UsageError: a browser cannot reach the broker with these settings; one line.
        """
        url = self.broker or self.websocket
        if not url:
            raise UsageError("--websocket is missing: the URL of the broker's WebSocket listener, ws://host:port/path")
        broker = MqttSettings.from_url(url, client_id="any")
        username = self.username or broker.username
        if self.password_file is not None and username is None:
            raise UsageError("--password-file needs --username")
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
                "--websocket is missing: browsers speak MQTT only over WebSocket; give the URL of that listener,"
                " ws://host:port/path (in mosquitto.conf: a separate listener with `protocol websockets`)"
            )
        host = f"[{broker.host}]" if ":" in broker.host else broker.host
        return f"{scheme}://{host}:{broker.port}{broker.websocket_path}"
