"""Settings of a link to a broker, validated when they are made rather than at the first connection."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

from wire_contract.errors import LinkError
from wire_contract.limits import KIB, MIB
from wire_contract.link.mqtt_rules import (
    RECEIVE_MAXIMUM_MAX,
    TOPIC_BYTES_MAX,
    WILL_BYTES_MAX,
    check_filter,
    check_topic,
)
from wire_contract.link.protocol import TopicFilters, Will

Protocol = Literal["auto", "5", "3.1.1"]
Transport = Literal["tcp", "websockets"]

DAY_SECONDS = 24 * 60 * 60
KEEPALIVE_SECONDS = 25
"""Default: below the idle timeout of many proxies and NAT routers (60 s), and of stricter ones (30 s), as a ping may be
sent up to a second late."""
_PORT_MAX = 65_535
_KEEPALIVE_SECONDS_MAX = 65_535
_SCHEMES: dict[str, tuple[Transport, bool, int]] = {
    "mqtt": ("tcp", False, 1883),
    "mqtts": ("tcp", True, 8883),
    "ws": ("websockets", False, 80),
    "wss": ("websockets", True, 443),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How broker and client authenticate each other with certificates."""

    ca_file: Path | None = None
    """Certificate authorities for the broker's certificate; None: those that the system trusts."""
    certificate_file: Path | None = None
    """This client's own certificate, if the broker requires one."""
    key_file: Path | None = None
    insecure: bool = False
    """Encrypted, but without checking the broker's certificate. Only for tests."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are given."""
        return tuple(file for file in (self.ca_file, self.certificate_file, self.key_file) if file is not None)

    def context(self) -> ssl.SSLContext:
        """Raises:
        LinkError: a file is missing or invalid.
        """
        for what, file in (("CA", self.ca_file), ("certificate", self.certificate_file), ("key", self.key_file)):
            if file is not None and not file.is_file():
                raise LinkError(f"TLS {what} file {file}: there is no such file")
        if self.key_file is not None and self.certificate_file is None:
            raise LinkError(f"TLS key file {self.key_file}: a key needs its certificate file")
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file, password=_no_passphrase)
        except OSError as error:
            # OpenSSL does not say which file.
            raise LinkError(f"TLS files {', '.join(map(str, self.files))}: {error}") from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _no_passphrase() -> str:
    """Without it, OpenSSL would ask on the terminal, and a service would hang."""
    raise LinkError("TLS key file: it is encrypted; give an unencrypted one that only this user can read")


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """Settings of one client of one broker."""

    host: str
    client_id: str
    """Identifies the durable session: never changes, and is never used by two programs at once."""
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    """Its first line takes precedence over `password`, and is read again when the file changes."""
    tls: Tls | ssl.SSLContext | None = None
    """None: no TLS."""
    transport: Transport = "tcp"
    websocket_path: str = "/mqtt"
    protocol: Protocol = "auto"
    """auto: MQTT 5, or 3.1.1 if the broker does not support it."""
    subscriptions: TopicFilters = ()
    """If the broker refuses one of these, the link closes the connection."""
    will: Will | None = None
    keepalive_seconds: int = KEEPALIVE_SECONDS
    session_expiry_seconds: int = 30 * DAY_SECONDS
    """How long the broker keeps the session of an absent client. MQTT 5 only; with 3.1.1, the broker's configuration
    decides. 30 days outlast a holiday; the broker stores what is queued meanwhile."""
    clean_start: bool = False
    """The broker discards the session at every connect: for clients that come once and leave nothing behind. Aggregator
    and device never use it."""
    receive_maximum: int = 256
    """Deliveries that may be unacknowledged; up to twice as many are queued here, the rest at the broker. 256 is
    chosen: above the 100 that our broker configurations send, so that the broker's limit decides."""
    outgoing_messages_max: int = 10_000
    """Publications that may wait for the broker; one more, and `publish` fails. Chosen: a model of `CHUNKS_MAX` chunks
    and a backlog's receipts fit; it bounds the memory."""
    packet_bytes_max: int = MIB - KIB
    """Below mosquitto's `message_size_limit` of 1 MiB in our configuration: it acknowledges larger messages and drops
    them."""
    reconnect_spread_seconds: float = 5.0
    """After a lost connection, the first delay is drawn from 0 to this, and each further one from a range twice as
    wide, so that a fleet does not reconnect all at once after a short outage of its broker."""
    reconnect_delay_seconds: float = 1.0
    """The same before the first connection, when a person may be waiting."""
    reconnect_delay_max_seconds: float = 60.0
    """Upper bound of that range: a broker that was away for hours is found within a minute, and not loaded by attempts
    meanwhile (`docs/decisions/0049-reconnect-delay.md`)."""
    close_seconds_max: float = 5.0
    """How long `close` waits for queued publications."""

    def __post_init__(self) -> None:
        """Raises:
        LinkError: these settings cannot work.
        """
        for name, low, high in (
            ("port", 1, _PORT_MAX),
            ("keepalive_seconds", 1, _KEEPALIVE_SECONDS_MAX),
            ("session_expiry_seconds", 0, 0xFFFF_FFFF),
            ("receive_maximum", 1, RECEIVE_MAXIMUM_MAX),
            ("outgoing_messages_max", 1, None),
            ("packet_bytes_max", 1, 0xFFF_FFFF),
            ("reconnect_spread_seconds", 0, None),
            ("reconnect_delay_seconds", 0, None),
            ("reconnect_delay_max_seconds", 0, None),
            ("close_seconds_max", 0, None),
        ):
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                raise LinkError(f"{name} {value}: must be {low} to {high}" if high else f"{name} {value}: too small")
        if not self.host:
            raise LinkError("broker host: is empty")
        if not 0 < len(self.client_id.encode()) <= TOPIC_BYTES_MAX:
            raise LinkError("client id: is empty or too long, and a durable session needs its name")
        if (self.password is not None or self.password_file is not None) and self.username is None:
            raise LinkError("password without a user name: MQTT 3.1.1 cannot send that")
        for topic_filter in self.subscriptions:
            check_filter(topic_filter)
        if self.will is not None:
            check_topic(self.will.topic)
            if len(self.will.payload) > WILL_BYTES_MAX:
                raise LinkError(f"will: {len(self.will.payload)} bytes is over the {WILL_BYTES_MAX} of MQTT")

    def tls_context(self) -> ssl.SSLContext | None:
        """Raises:
        LinkError: a TLS file cannot be used.
        """
        return self.tls.context() if isinstance(self.tls, Tls) else self.tls

    @property
    def address(self) -> str:
        """Host and port, for people."""
        return f"{bracketed(self.host)}:{self.port}"

    @classmethod
    def from_url(cls, url: str, *, client_id: str, **settings: Any) -> Self:
        """From `mqtt://user:password@host:port`, or mqtts, ws, wss; other settings by name.

        Raises:
            LinkError: the URL or a setting cannot work. The message never holds the password.
        """
        scheme, separator, rest = url.partition("://")
        shown = scheme + separator + ("…@" + rest.rpartition("@")[2] if "@" in rest else rest)
        shown = shown if separator else "(not shown)"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:  # its text may hold half of the password
            raise LinkError(
                f"broker URL {shown!r}: no valid port; write / ? # @ of a password as %2F %3F %23 %40"
            ) from None
        if parts.scheme not in _SCHEMES or not host:
            known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
            raise LinkError(f"broker URL {shown!r}: must be like mqtt://user:password@host:1883, with one of {known}")
        transport, encrypted, default_port = _SCHEMES[parts.scheme]
        if parts.query or parts.fragment or (transport == "tcp" and parts.path not in {"", "/"}):
            raise LinkError(
                f"broker URL {shown!r}: nothing may follow the port; write / ? # @ of a password as %2F %3F %23 %40"
            )
        if settings.get("tls") is not None and not encrypted:
            raise LinkError(f"broker URL {shown!r}: has TLS settings but is not encrypted; use mqtts:// or wss://")
        from_url = {
            "host": host.replace("%25", "%", 1),  # the zone of an IPv6 address is written fe80::1%25eth0 in a URL
            "port": default_port if port is None else port,
            "transport": transport,
            "websocket_path": parts.path or "/mqtt",
            "username": None if parts.username is None else unquote(parts.username),
            "password": None if parts.password is None else unquote(parts.password),
            "tls": Tls() if encrypted else None,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        return cls(client_id=client_id, **{**from_url, **given})


def bracketed(host: str) -> str:
    """The host as written before a port: an IPv6 address needs brackets, because it contains colons."""
    return f"[{host}]" if ":" in host else host


def host_headers(settings: MqttSettings) -> Callable[[dict[str, str]], dict[str, str]]:
    """Corrects the headers of paho's WebSocket handshake, which has an IPv6 address without brackets, with its zone."""

    def corrected(headers: dict[str, str]) -> dict[str, str]:
        scheme, port = ("https", 443) if settings.tls is not None else ("http", 80)
        host = bracketed(settings.host.partition("%")[0])
        where = host if settings.port == port else f"{host}:{settings.port}"
        return {**headers, "Host": where, "Origin": f"{scheme}://{where}"}

    return corrected
