"""Settings that both programs share: which broker, with which credentials, for which task.

A program adds its own fields in a subclass.
"""

import re
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from wire_contract.client_ids import client_id_below
from wire_contract.errors import FileUnusable, LinkError, TopicError
from wire_contract.files.watched_files import first_line
from wire_contract.link.mqtt_settings import KEEPALIVE_SECONDS, MqttSettings, Protocol, Tls
from wire_contract.link.protocol import TopicFilters, Will
from wire_contract.program.command_settings import CommandSettings, UsageError
from wire_contract.topics import DEFAULT_ROOT, check_name, check_root


def check_broker(url: str) -> str:
    """Returns `url` if it is a valid broker URL.

    Raises:
        ValueError: it is not; one line, without the password.
    """
    try:
        MqttSettings.from_url(url, client_id="any")
    except LinkError as error:
        raise ValueError(str(error)) from None
    return url


def _named(what: str) -> AfterValidator:
    def check(name: str) -> str:
        try:
            return check_name(name, what)
        except TopicError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(check)


_CODE_BYTES_MAX = 1 << 20
"""Most that is read of a task's code. Chosen: far above the size of a source file, as the path may be that of any
file."""
_NAME = re.compile(r"""\bname\s*=\s*["']([^"'/]+)["']""")


def check_task_name(name: str) -> str:
    """Returns `name` if it is the name of a task, and not the path of a task's code (which devices also accept).

    Raises:
        ValueError: it is not; one line that says which name to give.
    """
    place, _, function = name.partition(":")
    if function or place.endswith(".py"):
        known = _names_in(Path(place))
        asked = f"--task {known[0]}" if len(known) == 1 else "the `name` that its Task has"
        raise ValueError(f"{name} is where the code of a task is, which devices need; here give {asked}")
    try:
        return check_name(name, "task")
    except TopicError as error:
        raise ValueError(str(error)) from None


def _names_in(file: Path) -> list[str]:
    """Values of `name=` in this source file, which is read but not executed."""
    try:
        with file.open(encoding="utf-8", errors="replace") as source:
            return list(dict.fromkeys(_NAME.findall(source.read(_CODE_BYTES_MAX))))
    except OSError:
        return []


def _root(root: str) -> str:
    try:
        return check_root(root)
    except TopicError as error:
        raise ValueError(str(error)) from None


def _split(value: object) -> object:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        return given
    return [part for one in given for part in (one.split(",") if isinstance(one, str) else [one]) if part]


Files = Annotated[tuple[Path, ...], BeforeValidator(_split)]
"""A flag that may be given several times; in the environment or in one flag, separated by commas."""
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""The same for names."""
BrokerUrl = Annotated[str, AfterValidator(check_broker)]
DeviceName = Annotated[str, _named("device")]
TaskName = Annotated[str, AfterValidator(check_task_name)]
TopicRoot = Annotated[str, AfterValidator(_root)]


class ConnectionSettings(CommandSettings):
    """How to connect to the broker."""

    flag_groups: ClassVar = {
        "broker": "connection",
        "tls_ca": "TLS",
        "mqtt": "MQTT",
    }

    task: TaskName = Field(description="name of what is learned; one level of every topic")
    broker: BrokerUrl = Field(description="broker URL: mqtt://[user@]host[:1883], mqtts:// for TLS, ws:// or wss://")
    username: str | None = Field(None, description="user name; takes precedence over the one in the URL")
    password: SecretStr | None = Field(
        None, description="password; better in FEDKD_PASSWORD or --password-file, as other users can see command lines"
    )
    password_file: Path | None = Field(
        None, description="file whose first line is the password; read again when it changes"
    )
    tls_ca: Path | None = Field(
        None, description="PEM file of the certificate authorities to trust; without it, the system's are trusted"
    )
    tls_certificate: Path | None = Field(None, description="PEM file of this client's certificate chain")
    tls_key: Path | None = Field(None, description="PEM file of this client's private key")
    mqtt: Protocol = Field(
        "auto", description="MQTT version; auto tries 5 first, which delays the first connection to some brokers by 3 s"
    )
    client_id: str | None = Field(
        None, min_length=1, description="MQTT client id; without it, made from role, name and root"
    )
    keepalive_seconds: int = Field(
        KEEPALIVE_SECONDS,
        ge=5,
        le=65_535,
        description="idle time after which a ping is sent to the broker; must be less than the idle timeout of any "
        "proxy on the way, seconds",
    )
    reconnect_spread_seconds: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="after a lost connection, the first attempt to reconnect is made at a random time within this; "
        "for N devices and a broker that accepts M connections per second, N/M, seconds",
    )
    root: TopicRoot = Field(DEFAULT_ROOT, description="first levels of every topic")

    def mqtt_settings(
        self,
        *,
        client_id: str,
        subscriptions: TopicFilters = (),
        will: Will | None = None,
        session_expiry_seconds: int | None = None,
    ) -> MqttSettings:
        """The settings of a link.

        Args:
            client_id: used if the user gave none; see `client_ids.py` for roots other than the default.
            subscriptions: of the link.
            will: published by the broker when the connection breaks.
            session_expiry_seconds: how long the broker keeps the session; None: the default of `MqttSettings`.

        Raises:
            UsageError: these settings cannot work together, or the password file cannot be read.
        """
        try:
            return MqttSettings.from_url(
                self.broker,
                client_id=self.client_id or client_id_below(client_id, self.root),
                username=self.username,
                password=self._password(),
                password_file=self.password_file,
                tls=self._tls(),
                protocol=self.mqtt,
                keepalive_seconds=self.keepalive_seconds,
                reconnect_spread_seconds=self.reconnect_spread_seconds,
                subscriptions=subscriptions,
                will=will,
                session_expiry_seconds=session_expiry_seconds,
            )
        except LinkError as error:
            raise UsageError(str(error)) from None

    def _password(self) -> str | None:
        """As given, or from the file; None: the one in the URL, if any, is used."""
        if self.password_file is None:
            return self.password.get_secret_value() if self.password else None
        if self.password is not None:
            raise UsageError("password: give either a password or a password file")
        return read_password_file(self.password_file)

    def _tls(self) -> Tls | None:
        """None: as the URL says. The files are read here once, so that an error in them is a usage error."""
        if not (self.tls_ca or self.tls_certificate or self.tls_key):
            return None
        tls = Tls(ca_file=self.tls_ca, certificate_file=self.tls_certificate, key_file=self.tls_key)
        tls.context()
        return tls


def read_password_file(file: Path) -> str:
    """The first line of a password file.

    Raises:
        UsageError: it cannot be read, or its first line is empty.
    """
    try:
        return first_line(file, "password file")
    except FileUnusable as error:
        raise UsageError(str(error)) from None
