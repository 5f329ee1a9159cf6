"""Serves the page on the loopback interface: a fixed set of files and `config.json`, only to this machine.

`config.json` may contain a password. So requests with another host name are refused (DNS rebinding: a web site whose
name resolves to this machine), and no other site may read a response. And because every user of this machine can reach
the loopback interface, a page with a password is below a path that cannot be guessed.
"""

import json
import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, Self
from urllib.parse import urlsplit

from operations.watch.last_state import MODULES
from operations.watch.settings import PageConfig
from wire_contract.program.command_settings import UsageError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
OWN_NAMES = frozenset({"127.0.0.1", "localhost"})
TYPES = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **dict.fromkeys(MODULES, "text/javascript; charset=utf-8"),
}
"""The files that are served, with their types."""
REQUEST_SECONDS_MAX = 10.0
"""A connection that sends nothing for this long is closed."""
PATH_BYTES = 16
"""Random bytes in the path of a page that contains a password; 128 bits."""


@dataclass(frozen=True)
class Answer:
    """The response for one path."""

    kind: str
    body: bytes


def answers(config: PageConfig, *, below: str = "/") -> Mapping[str, Answer]:
    """All responses by path; `below` is a prefix that begins and ends with a slash."""
    folder = files("operations.watch")
    found = {f"{below}{name}": Answer(kind, folder.joinpath(name).read_bytes()) for name, kind in TYPES.items()}
    found[below] = found.pop(f"{below}page.html")
    found[f"{below}config.json"] = Answer("application/json", json.dumps(asdict(config)).encode())
    return found


def policy(websocket: str) -> str:
    """The Content-Security-Policy: only own files, and a connection only to this broker."""
    parts = urlsplit(websocket)
    # A policy cannot contain an IPv6 address.
    broker = f"{parts.scheme}:" if ":" in (parts.hostname or "") else f"{parts.scheme}://{parts.netloc}"
    rules = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": f"'self' {broker}",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{rule} {value}" for rule, value in rules.items())


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    server_version = "fedkd-page"
    sys_version = ""
    timeout = REQUEST_SECONDS_MAX

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        answer = self.server.answers.get(self.path.partition("?")[0])
        if name not in OWN_NAMES:
            self._send(
                HTTPStatus.MISDIRECTED_REQUEST, Answer("text/plain", b"this host name is not served here\n"), with_body
            )
        elif answer is None:
            self._send(HTTPStatus.NOT_FOUND, Answer("text/plain", b"there is no such page\n"), with_body)
        else:
            self._send(HTTPStatus.OK, answer, with_body)

    def _send(self, status: HTTPStatus, answer: Answer, with_body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Content-Security-Policy", self.server.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 — as in the base class
        log.debug(format, *arguments)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, config: PageConfig) -> None:
        self.path = "/" if config.password is None else f"/{secrets.token_urlsafe(PATH_BYTES)}/"
        self.answers = answers(config, below=self.path)
        self.policy = policy(config.websocket)
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 — as in the base class
        """A browser may close its connection at any time: not an error."""
        log.debug("a request was not answered")


class PageServer:
    """Serves the page in a thread until it is closed."""

    def __init__(self, config: PageConfig, *, port: int) -> None:
        """Listens on `port` of the loopback interface; 0: any free port.

        Raises:
            UsageError: the port cannot be used; one line.
        """
        self.config = config
        try:
            self._server = _Server(port, config)
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror}; choose another, or 0 for any free port") from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="page", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """URL of the page; whoever knows it can read the page's password, if there is one."""
        return f"http://{HOST}:{self._server.server_address[1]}{self._server.path}"

    def show(self, config: PageConfig) -> None:
        """Serves another configuration from now on; open pages load it when they lose the broker."""
        self.config = config
        self._server.answers = answers(config, below=self._server.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
