"""A server that takes line protocol, through influxdb-client: InfluxDB 1.8 and later, 2, 3, and what speaks like them.

Its writes are synchronous and of many lines at once. The client's own batching is not used: its buffer has no bound,
its `flush` does nothing, and its `close` can block for minutes.
"""

from http.client import HTTPException
from typing import Any, Protocol

from wire_contract.errors import ContractError

WRITE_SECONDS_MAX = 10.0
_STATUS_MALFORMED = frozenset({400, 422})
_STATUS_TOO_LARGE = 413
_STATUS_CLIENT = range(400, 500)
_STATUS_LATER = frozenset({408, 429})


class ServerAway(ContractError):
    """Nothing was written; trying again later may help."""


class NotAllowed(ServerAway):
    """The server says no to this token, organisation or bucket: a person has to mend that."""


class LinesRefused(ContractError):
    """The server will never take these lines, or not all of them."""

    def __init__(self, text: str, *, too_large: bool = False) -> None:
        super().__init__(text)
        self.too_large = too_large


class Server(Protocol):
    """Where lines go."""

    def write(self, lines: bytes) -> None:
        """Writes whole lines; returns when the server has them.

        Raises:
            ServerAway, NotAllowed, LinesRefused: it has not.
        """


class InfluxServer:
    """One bucket."""

    def __init__(self, url: str, *, token: str, org: str, bucket: str) -> None:
        # Here and not above: it takes most of a second to import, and is not needed without a server.
        from influxdb_client.client.influxdb_client import InfluxDBClient  # noqa: PLC0415
        from influxdb_client.client.write_api import SYNCHRONOUS  # noqa: PLC0415

        client: Any = InfluxDBClient(url=url, token=token, org=org, timeout=int(WRITE_SECONDS_MAX * 1000))
        self._write = client.write_api(write_options=SYNCHRONOUS).write
        self._bucket = bucket
        self._org = org

    def write(self, lines: bytes) -> None:
        from influxdb_client.rest import ApiException  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            self._write(bucket=self._bucket, org=self._org, record=lines)
        except ApiException as error:
            raise _meaning(error.status, error.message or error.reason) from None
        except (HTTPError, HTTPException, OSError) as error:
            raise ServerAway(f"cannot be reached: {_short(error)}") from None


def _meaning(status: int | None, text: object) -> ContractError:
    said = f"answers {status}: {_short(text)}"
    if status in _STATUS_MALFORMED:
        return LinesRefused(said)
    if status == _STATUS_TOO_LARGE:
        return LinesRefused(said, too_large=True)
    if status in _STATUS_CLIENT and status not in _STATUS_LATER:
        return NotAllowed(said)  # 401 and 403, and 404 where there is no such bucket
    return ServerAway(said)


def _short(text: object) -> str:
    return " ".join(str(text).split())[:300]
