"""A real InfluxDB 1.6 on the loopback interface that can be stopped and started, with the write path of newer versions.

Debian's InfluxDB 1.6 has only `/write` and `/query`. A shim in this process accepts `/api/v2/write?bucket=b`, checks
the token, and forwards the same bytes to `/write?db=b`; InfluxDB's answers are passed back unchanged.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

BUCKET = "fedkd"
TOKEN = "token-of-this-server"  # noqa: S105 - guards nothing
START_SECONDS_MAX = 60.0
"""Chosen: generous to a busy machine; if influxd ends, that is noticed at once."""

Row = dict[str, Any]


class NotStarted(Exception):
    """influxd ended, or does not answer."""


class Shim:
    """`/api/v2/write` in front of a port that knows `/write`."""

    host = "127.0.0.1"
    """Where it listens."""

    def __init__(self, port: int, *, behind: int) -> None:
        self.port = port
        self.behind = behind
        """Port of InfluxDB; 0: none, lines are accepted and discarded."""
        self.status: int | None = None
        """If set, answers with this status and forwards nothing."""
        self.writes = 0
        """Number of write requests, whatever the answer."""
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        shim = self

        class Handler(BaseHTTPRequestHandler):
            # HTTP/1.0, one request per connection: none outlives `stop`.
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                shim.writes += 1
                status, text = shim._answer(self.path, self.headers.get("Authorization", ""), body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # the client has disconnected

        self._server = Server((self.host, self.port), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def wait(self) -> None:
        """Blocks forever."""
        assert self._server is not None
        threading.Event().wait()

    def _answer(self, path: str, authorization: str, body: bytes) -> tuple[int, bytes]:
        asked = parse_qs(urlsplit(path).query)
        if self.status is not None:
            return self.status, b'{"code": "told", "message": "as it was told"}'
        if authorization != f"Token {TOKEN}":
            return 401, b'{"code": "unauthorized", "message": "unauthorized access"}'
        assert urlsplit(path).path == "/api/v2/write", path
        assert asked["precision"] == ["ns"], path
        if not self.behind:
            return 204, b""
        target = f"http://127.0.0.1:{self.behind}/write?" + urlencode({"db": asked["bucket"][0], "precision": "n"})
        try:
            with urllib.request.urlopen(urllib.request.Request(target, data=body), timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return 503, b'{"code": "unavailable", "message": "behind the shim"}'


class ShimProcess(Shim):
    """The same in a separate process, without `status` and `writes`."""

    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "benchmarks.influxd", str(self.port), str(self.behind)]
        self._process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise NotStarted("the shim did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_SECONDS_MAX)
            self._process = None


class InfluxDB:
    """One server with its own folder and ports; its points survive restarts."""

    def __init__(self, folder: Path, *, program: str, ports: tuple[int, int, int], shim_apart: bool = False) -> None:
        """`program`: influxd; `ports`: HTTP, backup and the shim's. `shim_apart`: the shim is a separate process, which
        takes no CPU time of this one.
        """
        self._program = program
        self._folder = folder
        self._port, self._backup_port, shim_port = ports
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "influxd.log"
        self.shim = ShimProcess(shim_port, behind=self._port) if shim_apart else Shim(shim_port, behind=self._port)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """For writers, as with InfluxDB 2; they need TOKEN and BUCKET."""
        return f"http://127.0.0.1:{self.shim.port}"

    @property
    def query_url(self) -> str:
        """For readers: InfluxQL at `/query?db=…&q=…`, without a token."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts it, and returns when it answers.

        Raises:
            NotStarted: it does not answer.
        """
        assert self._process is None, "it runs already"
        settings = {
            "INFLUXDB_REPORTING_DISABLED": "true",
            "INFLUXDB_BIND_ADDRESS": f"127.0.0.1:{self._backup_port}",
            "INFLUXDB_HTTP_BIND_ADDRESS": f"127.0.0.1:{self._port}",
            "INFLUXDB_HTTP_LOG_ENABLED": "false",
            "INFLUXDB_META_DIR": str(self._folder / "meta"),
            "INFLUXDB_DATA_DIR": str(self._folder / "data"),
            "INFLUXDB_DATA_WAL_DIR": str(self._folder / "wal"),
            "INFLUXDB_DATA_QUERY_LOG_ENABLED": "false",
            "INFLUXDB_MONITOR_STORE_ENABLED": "false",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-config", "/dev/null"], env={**os.environ, **settings}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self._ask(f'CREATE DATABASE "{BUCKET}"', method="POST")
            except (OSError, HTTPException):
                time.sleep(0.02)
            else:
                self.shim.start()
                return
        self.stop()
        raise NotStarted(f"influxd did not start:\n{self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Stops it with SIGTERM."""
        self.shim.stop()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_SECONDS_MAX)
            self._process = None

    def wait(self) -> int:
        """Until influxd ends by itself; its exit code."""
        assert self._process is not None, "it does not run"
        return self._process.wait()

    def query(self, text: str) -> list[Row]:
        """The rows of one InfluxQL statement: columns and tags by name, times in Unix nanoseconds.

        Raises:
            ValueError: InfluxDB reports an error in the statement.
        """
        reads = text.startswith(("SELECT", "SHOW"))
        result = self._ask(text, method="GET" if reads else "POST")["results"][0]
        if "error" in result:
            raise ValueError(f"{result['error']}: {text}")
        return [
            {**series.get("tags", {}), **dict(zip(series["columns"], values, strict=True))}
            for series in result.get("series", [])
            for values in series["values"]
        ]

    def count(self, measurement: str, field: str) -> int:
        """Points of a measurement that have the field."""
        rows = self.query(f'SELECT count("{field}") FROM "{measurement}"')  # noqa: S608 - its own data
        return int(rows[0]["count"]) if rows else 0

    def _ask(self, text: str, *, method: str = "GET") -> Any:
        target = f"{self.query_url}/query?" + urlencode({"db": BUCKET, "epoch": "ns", "q": text})
        try:
            request = urllib.request.Request(target, method=method)  # noqa: S310 - http, as above
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{error.read().decode()}: {text}") from None


if __name__ == "__main__":
    alone = Shim(int(sys.argv[1]), behind=int(sys.argv[2]))
    alone.start()
    alone.wait()
