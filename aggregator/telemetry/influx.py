"""Writes line protocol through influxdb-client to InfluxDB 1.8 or later, 2 or 3, and compatible servers.

Its writes are synchronous and of many lines at once. The client's own batching is not used: its buffer has no bound,
its `flush` does nothing, and its `close` can block for minutes.
"""

import logging
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol, TypeVar

from aggregator.telemetry.proxies import proxy_for
from wire_contract.errors import ContractError, FileUnusable, LinkError
from wire_contract.files.watched_files import WatchedFiles, first_line
from wire_contract.link.mqtt_settings import Tls
from wire_contract.transport.reconnect import reason_of
from wire_contract.transport.tls_failures import tls_failure

log = logging.getLogger(__name__)

WRITE_SECONDS_MAX = 10.0
"""influxdb-client's default. A write has 512 KiB, so a connection slower than 52 kB/s cannot send the telemetry."""
_STATUS_MALFORMED = frozenset({400, 422})
_STATUS_TOO_LARGE = 413
_STATUS_CLIENT = range(400, 500)
_STATUS_LATER = frozenset({408, 429})
_PLAIN_TO_TLS = "HTTP request to an HTTPS server"
"""Servers written in Go send this with status 400, as for malformed lines."""


class ServerAway(ContractError):
    """Nothing was written; a later attempt may succeed."""


class NotAllowed(ServerAway):
    """The server refuses this token, organisation or bucket; the operator has to fix that."""


class LinesRefused(ContractError):
    """The server permanently refuses these lines, or some of them."""

    def __init__(self, text: str, *, too_large: bool = False) -> None:
        super().__init__(text)
        self.too_large = too_large


class Server(Protocol):
    """A destination for lines."""

    def write(self, lines: bytes) -> None:
        """Writes complete lines; returns when the server has stored them.

        Raises:
            ServerAway, NotAllowed, LinesRefused: it has not.
        """


@dataclass(frozen=True, kw_only=True)
class InfluxAccess:
    """One bucket of a server, with the credentials to write to it."""

    url: str
    org: str
    bucket: str
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    """File whose first line takes precedence over `token`."""
    tls: Tls | None = None
    """TLS files for an https URL; None: the system's authorities, and no client certificate."""

    @property
    def files(self) -> list[Path]:
        """All files that are read, and read again when they change."""
        own = [] if self.token_file is None else [self.token_file]
        return [*own, *(self.tls.files if self.tls else ())]

    def read_token(self) -> str:
        """Raises:
        FileUnusable: the token file cannot be read, or its first line is no token.
        """
        if self.token_file is None:
            return self.token
        token = first_line(self.token_file, "influx token file").strip()
        if not token or not token.isprintable():
            raise FileUnusable(f"influx token file {self.token_file}: its first line must be the token")
        return token

    def context(self) -> ssl.SSLContext | None:
        """Raises:
        LinkError: a TLS file cannot be used.
        """
        return (self.tls or Tls()).context() if self.url.startswith("https:") else None


class InfluxServer:
    """Writes to one bucket, through the proxy from the environment (`https_proxy`, `no_proxy`)."""

    def __init__(self, access: InfluxAccess) -> None:
        """Raises:
        FileUnusable, LinkError: a file cannot be used.
        """
        self._access = access
        self._files = WatchedFiles(access.files)
        self._doubted = False
        self._proxy = proxy_for(access.url)
        self._write = self._connect()

    def write(self, lines: bytes) -> None:
        from influxdb_client.rest import ApiException  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        self._renew()
        try:
            self._write(bucket=self._access.bucket, org=self._access.org, record=lines)
        except ApiException as error:
            if error.status == 0:  # there was no response
                raise self._unreached(error) from None
            raise _meaning(error.status, error.message or error.reason) from None
        except (HTTPError, HTTPException, OSError) as error:
            raise self._unreached(error) from None

    def _connect(self) -> Callable[..., object]:
        # Here and not above: it takes most of a second to import, and is not needed without a server.
        from influxdb_client.client.influxdb_client import InfluxDBClient  # noqa: PLC0415
        from influxdb_client.client.write_api import SYNCHRONOUS  # noqa: PLC0415

        access = self._access
        client: Any = InfluxDBClient(
            url=access.url,
            token=access.read_token(),
            org=access.org,
            timeout=int(WRITE_SECONDS_MAX * 1000),
            ssl_context=access.context(),
            proxy=None if self._proxy is None else self._proxy.url,
            proxy_headers=None if self._proxy is None else self._proxy.headers,
        )
        write: Callable[..., object] = client.write_api(write_options=SYNCHRONOUS).write
        return write

    def _renew(self) -> None:
        """Uses a new token or certificate from the next write on; an unusable one changes nothing."""
        doubted, self._doubted = self._doubted, False
        if not doubted and not self._files.touched():
            return
        if self._files.changed() or doubted:
            try:
                self._write = self._connect()
            except (FileUnusable, LinkError) as error:
                log.warning("%s; the previous one stays in use", error)

    def _unreached(self, error: BaseException) -> ServerAway:
        tls, system = _root(error, ssl.SSLError), _root(error, OSError)
        if tls is not None:
            self._doubted = True  # authorities may have been renewed
            said = tls_failure(
                tls,
                server="the server",
                ca_flag="--influx-ca",
                certificate_flag="--influx-certificate and --influx-key",
                certificate_file=None if self._access.tls is None else self._access.tls.certificate_file,
            )
        else:
            said = f"cannot be reached: {_short(reason_of(system) if system else error)}"
        return ServerAway(said if self._proxy is None else f"{said} (through the proxy {self._proxy.shown})")


E = TypeVar("E", bound=BaseException)


def _root(error: BaseException, kind: type[E]) -> E | None:
    """The innermost exception of this type among the causes; urllib3 wraps them in several ways."""
    found, seen, waiting = None, set[int](), [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found = one if isinstance(one, kind) and (not isinstance(one, OSError) or one.strerror) else found
        behind = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        waiting += [each for each in behind if isinstance(each, BaseException)]
    return found


def _meaning(status: int | None, text: object) -> ContractError:
    said = f"answers {status}: {_short(text)}"
    if _PLAIN_TO_TLS in said:
        return ServerAway("wants TLS: write --influx-url with https://")
    if status in _STATUS_MALFORMED:
        return LinesRefused(said)
    if status == _STATUS_TOO_LARGE:
        return LinesRefused(said, too_large=True)
    if status in _STATUS_CLIENT and status not in _STATUS_LATER:
        return NotAllowed(said)  # 401 and 403, and 404 where there is no such bucket
    return ServerAway(said)


def _short(text: object) -> str:
    plain = re.sub(r" object at 0x[0-9a-f]+", "", str(text))  # otherwise every attempt would be logged as a new problem
    return " ".join(plain.split())[:300]
