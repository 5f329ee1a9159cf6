"""A server behind TLS with an authority of one's own, behind a proxy, and with a token that is renewed."""

import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aggregator.enrolment.authority import Authority, begin
from aggregator.telemetry.influx import InfluxAccess, InfluxServer, NotAllowed, ServerAway
from aggregator.telemetry.proxies import proxy_for
from aggregator.telemetry.settings import TelemetrySettings
from tests.broker.locked import now
from wire_contract.errors import LinkError
from wire_contract.link.mqtt_settings import Tls
from wire_contract.program.command_settings import UsageError, read_settings

LINES = b"m f=1 1\n"


class Answers(BaseHTTPRequestHandler):
    """204 to the token "new", 401 to others; notes every request."""

    protocol_version = "HTTP/1.1"
    server: "Listener"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(204 if self.headers["Authorization"] == "Token new" else 401)

    def do_CONNECT(self) -> None:
        self._answer(403)

    def _answer(self, status: int) -> None:
        self.server.seen.append((self.command, self.path, self.headers["Proxy-Authorization"]))
        body = self.server.text.encode()
        self.send_response(self.server.status or status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Listener(ThreadingHTTPServer):
    """On a free port of the loopback, in a thread of its own."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.seen: list[tuple[str, str, str | None]] = []
        self.status: int | None = None
        self.text = ""
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_port}"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *_: Any) -> None:
        """A handshake that failed."""


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(tls: ssl.SSLContext | None = None) -> Listener:
        made.append(Listener(tls))
        threading.Thread(target=made[-1].serve_forever, args=(0.02,), daemon=True).start()
        return made[-1]

    yield make
    for one in made:
        one.shutdown()
        one.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """ca.pem, broker.pem, broker.key of a server at 127.0.0.1, and aggregator.pem, aggregator.key."""
    begin(tmp_path / "authority", name="test", days=10, now=now)
    with Authority(tmp_path / "authority", now=now) as authority:
        authority.enrol("broker", "broker", out=tmp_path / "keys", hosts=("127.0.0.1",), days=5)
        authority.enrol("aggregator", "aggregator", out=tmp_path / "keys", days=5)
    return tmp_path / "keys"


def server_tls(keys: Path, *, asks: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "broker.pem", keys / "broker.key")
    if asks:
        context.load_verify_locations(keys / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def influx(url: str, **more: Any) -> InfluxServer:
    return InfluxServer(InfluxAccess(url=url, org="o", bucket="b", **{"token": "new", **more}))


def test_a_private_authority_is_named_and_then_trusted(keys: Path, listen: Callable[..., Listener]) -> None:
    server = listen(server_tls(keys))
    said = r"certificate of the server is signed by an unknown authority; give .* with --influx-ca FILE"
    with pytest.raises(ServerAway, match=said):
        influx(server.url).write(LINES)
    influx(server.url, tls=Tls(ca_file=keys / "ca.pem")).write(LINES)
    assert [command for command, *_ in server.seen] == ["POST"]


def test_a_certificate_is_asked_for_and_shown(keys: Path, listen: Callable[..., Listener]) -> None:
    server = listen(server_tls(keys, asks=True))
    with pytest.raises(ServerAway, match=r"give --influx-certificate and --influx-key"):
        influx(server.url, tls=Tls(ca_file=keys / "ca.pem")).write(LINES)
    own = Tls(ca_file=keys / "ca.pem", certificate_file=keys / "aggregator.pem", key_file=keys / "aggregator.key")
    influx(server.url, tls=own).write(LINES)


def test_the_wrong_scheme_is_told_either_way_and_costs_no_points(listen: Callable[..., Listener]) -> None:
    plain = listen()
    with pytest.raises(ServerAway, match="the server does not speak TLS on this port"):
        influx(plain.url.replace("http", "https")).write(LINES)
    plain.status, plain.text = 400, "Client sent an HTTP request to an HTTPS server.\n"
    with pytest.raises(ServerAway, match="wants TLS: write --influx-url with https://"):
        influx(plain.url).write(LINES)


def test_a_renewed_token_is_used(tmp_path: Path, listen: Callable[..., Listener]) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    server = influx(listen().url, token_file=file)
    with pytest.raises(NotAllowed, match="401"):
        server.write(LINES)
    file.write_text("new\n")
    server.write(LINES)


def test_a_token_file_that_is_empty_for_a_moment_leaves_the_old_token_in_use(
    tmp_path: Path, listen: Callable[..., Listener], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text("new\n")
    server = influx(listen().url, token_file=file)
    file.write_text("")
    for _ in range(2):
        server.write(LINES)
    assert caplog.text.count("the previous one stays in use") == 1


def test_a_renewed_authority_is_trusted(keys: Path, tmp_path: Path, listen: Callable[..., Listener]) -> None:
    begin(tmp_path / "other", name="other", days=10, now=now)
    file = tmp_path / "trusted.pem"
    with Authority(tmp_path / "other", now=now) as authority:
        authority.enrol("watch-1", "device", out=tmp_path / "theirs", days=5)
    file.write_bytes((tmp_path / "theirs" / "ca.pem").read_bytes())
    server = influx(listen(server_tls(keys)).url, tls=Tls(ca_file=file))
    with pytest.raises(ServerAway, match="unknown authority"):
        server.write(LINES)
    file.write_bytes((keys / "ca.pem").read_bytes())
    server.write(LINES)


def test_nobody_there_is_one_short_line(listen: Callable[..., Listener]) -> None:
    gone = listen()
    url = gone.url
    gone.shutdown()
    gone.server_close()
    with pytest.raises(ServerAway, match=r"^cannot be reached: Connection refused$"):
        influx(url).write(LINES)


def test_the_proxy_of_the_environment_is_used(listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = listen()
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//anna:pass%40word@"))
    influx("http://influx.example:8086").write(LINES)
    (command, path, login), *_ = proxy.seen
    assert (command, path.partition("?")[0]) == ("POST", "http://influx.example:8086/api/v2/write")
    assert login == "Basic " + b64encode(b"anna:pass@word").decode()


def test_a_proxy_that_says_no_is_named(listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = listen()
    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.server_port}")
    with pytest.raises(ServerAway, match=rf"403.*\(through the proxy http://127.0.0.1:{proxy.server_port}\)"):
        influx("https://influx.example").write(LINES)
    assert proxy.seen[0][:2] == ("CONNECT", "influx.example:443")


@pytest.mark.parametrize(
    ("url", "environment", "through"),
    [
        ("http://influx:8086", {}, None),
        ("http://influx:8086", {"http_proxy": "http://p:3128"}, "http://p:3128"),
        ("https://influx:8086", {"http_proxy": "http://p:3128"}, None),
        ("https://influx:8086", {"all_proxy": "p:3128"}, "http://p:3128"),
        ("http://influx:8086", {"http_proxy": "http://p:3128", "no_proxy": "other,influx"}, None),
        ("http://db.example.org", {"http_proxy": "http://p:3128", "no_proxy": ".example.org"}, None),
        ("http://localhost:8086", {"http_proxy": "http://p:3128"}, None),
        ("http://127.0.0.1:8086", {"http_proxy": "http://p:3128"}, None),
        ("http://[::1]:8086", {"http_proxy": "http://p:3128"}, None),
    ],
)
def test_which_proxy(
    monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], through: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(url)
    assert (None if found is None else found.url) == through


def test_a_proxy_of_another_kind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://u:hidden@p:1080")
    with pytest.raises(LinkError, match="must be like http://") as caught:
        proxy_for("http://influx:8086")
    assert "hidden" not in str(caught.value)


def settings(*flags: object) -> TelemetrySettings:
    return read_settings(TelemetrySettings, [str(flag) for flag in flags], program="test")


def test_settings_reach_the_server_and_wrong_ones_are_one_line(keys: Path) -> None:
    https = ("--influx-url", "https://h", "--influx-ca", keys / "ca.pem")
    own = ("--influx-certificate", keys / "aggregator.pem", "--influx-key", keys / "aggregator.key")
    access = settings(*https, *own).influx_access()
    assert access is not None
    assert access.tls == Tls(
        ca_file=keys / "ca.pem", certificate_file=keys / "aggregator.pem", key_file=keys / "aggregator.key"
    )
    assert settings().influx_access() is None
    with pytest.raises(UsageError, match="need an --influx-url with https://"):
        settings("--influx-url", "http://h", "--influx-ca", keys / "ca.pem")
    with pytest.raises(UsageError, match=r"missing\.pem: there is no such file"):
        settings("--influx-url", "https://h", "--influx-ca", "missing.pem").influx_access()
    with pytest.raises(UsageError, match="needs its certificate"):
        settings(*https, "--influx-key", keys / "aggregator.key").influx_access()
