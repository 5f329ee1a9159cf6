"""The program that serves the page: its files, its refusals, its settings, its end."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from operations.watch.server import TYPES, PageServer, policy
from operations.watch.settings import PageConfig, WatchSettings
from tests.waiting import ended
from wire_contract.program.command_settings import UsageError, read_settings

HOUSE = Path(__file__).parents[2]
CONFIG = PageConfig(
    websocket="ws://broker.example:9001/mqtt", root="fedkd/v1", task="har", username="reader", password="only-reads"
)


@pytest.fixture
def server() -> Iterator[PageServer]:
    with PageServer(CONFIG, port=0) as server:
        yield server


def ask(server: PageServer, path: str, *, method: str = "GET", host: str | None = None) -> http.client.HTTPResponse:
    """The answer to `path`, which is taken below the page's own."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request(method, parts.path.rstrip("/") + path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    answer.content = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def body(answer: http.client.HTTPResponse) -> bytes:
    found = answer.content  # type: ignore[attr-defined]
    assert isinstance(found, bytes)
    return found


def test_every_file_of_the_page_is_served_with_its_type_and_policy(server: PageServer) -> None:
    folder = files("operations.watch")
    shipped = {entry.name for entry in folder.iterdir() if Path(entry.name).suffix in {".html", ".css", ".js", ".svg"}}
    assert shipped == set(TYPES)
    for name, kind in TYPES.items():
        answer = ask(server, "/" if name == "page.html" else f"/{name}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
        assert body(answer) == folder.joinpath(name).read_bytes()
        assert answer.headers["Content-Security-Policy"] == policy(CONFIG.websocket)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in answer.headers
    head = ask(server, "/page.js", method="HEAD")
    assert (head.status, body(head)) == (200, b"")


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    folder = files("operations.watch")
    for name in TYPES:
        text = folder.joinpath(name).read_text(encoding="utf-8")
        elsewhere = text.replace("http://www.w3.org/2000/svg", "").replace("https://github.com/lz4", "")
        assert "http://" not in elsewhere, name
        assert "https://" not in elsewhere, name
        assert "innerHTML" not in text, "what a broker says is text"


def test_the_policy_names_one_broker() -> None:
    told = dict(rule.split(" ", 1) for rule in policy("wss://broker.example:8084/mqtt").split("; "))
    assert told["default-src"] == "'none'"
    assert told["connect-src"] == "'self' wss://broker.example:8084"
    assert told["script-src"] == told["style-src"] == "'self'"
    assert "connect-src 'self' ws:;" in policy("ws://[::1]:9001/")


@pytest.mark.parametrize(
    "path",
    [
        "/page.html",
        "/server.py",
        "/..",
        "/../server.py",
        "/%2e%2e/server.py",
        "//etc/passwd",
        "/__init__.py",
        "/a",
        "*",
    ],
)
def test_nothing_else_is_there(server: PageServer, path: str) -> None:
    answer = ask(server, path)
    assert answer.status == 404
    assert body(answer) == b"there is no such page\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(server: PageServer, method: str) -> None:
    assert ask(server, "/config.json", method=method).status == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "", "[::1]:8090"])
def test_another_name_for_this_machine_gets_nothing(server: PageServer, host: str) -> None:
    answer = ask(server, "/config.json", host=host)
    assert answer.status == 421
    assert b"only-reads" not in body(answer)


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1"])
def test_the_connection_is_told_to_the_page_also_through_a_tunnel(server: PageServer, host: str) -> None:
    answer = ask(server, "/config.json", host=host)
    assert answer.headers["Cache-Control"] == "no-store"
    assert json.loads(body(answer)) == {
        "websocket": "ws://broker.example:9001/mqtt",
        "root": "fedkd/v1",
        "task": "har",
        "username": "reader",
        "password": "only-reads",
        "report": "",
        "ended_at": None,
        "messages": [],
    }
    assert "only-reads" not in repr(CONFIG)


def test_other_users_of_this_machine_do_not_find_a_password(server: PageServer) -> None:
    parts = urlsplit(server.url)
    assert len(parts.path) > 20
    with PageServer(CONFIG, port=0) as another:
        assert urlsplit(another.url).path != parts.path
    for path in ("/config.json", "/", "/page.js", f"{parts.path.rstrip('/')[:-1]}/config.json"):
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (404, b"there is no such page\n"), path
        connection.close()


def test_a_page_without_a_password_is_where_one_expects_it() -> None:
    with PageServer(replace(CONFIG, password=None), port=0) as server:
        assert urlsplit(server.url).path == "/"
        assert json.loads(body(ask(server, "/config.json")))["password"] is None


def test_a_taken_port_is_one_line(server: PageServer) -> None:
    port = urlsplit(server.url).port
    assert port is not None
    with pytest.raises(UsageError, match=f"--port {port}: Address already in use; choose another"):
        PageServer(CONFIG, port=port)


def config_of(*arguments: str) -> PageConfig:
    return read_settings(WatchSettings, arguments, program="watch").page_config()


def test_where_the_page_finds_the_broker(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("only-reads\n")
    assert config_of("--broker", "ws://reader@localhost:9001/mqtt") == PageConfig(
        websocket="ws://localhost:9001/mqtt", root="fedkd/v1", task=None, username="reader"
    )
    assert config_of("--broker", "wss://[::1]/x").websocket == "wss://[::1]:443/x"
    told = config_of(
        *("--broker", "mqtt://reader@localhost", "--websocket", "ws://localhost:9001/", "--task", "har"),
        *("--root", "a/b", "--password-file", str(tmp_path / "password")),
    )
    assert told == PageConfig(
        websocket="ws://localhost:9001/", root="a/b", task="har", username="reader", password="only-reads"
    )
    # As the other programs have it, in FEDKD_BROKER above all; the websocket's own address stays without.
    told = config_of("--broker", "mqtt://reader:only%2Freads@localhost", "--websocket", "ws://localhost:9001/")
    assert (told.websocket, told.username, told.password) == ("ws://localhost:9001/", "reader", "only/reads")
    assert config_of("--broker", "ws://a:b@localhost").websocket == "ws://localhost:80/mqtt"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--websocket is missing"),
        (("--broker", "mqtt://localhost"), "browsers speak MQTT only over WebSocket"),
        (("--websocket", "ws://a:secret@localhost"), "neither user nor password"),
        (("--websocket", "mqtt://localhost"), "must begin with ws:// or wss://"),
        (("--websocket", "localhost:9001"), "must be like"),
        (("--websocket", "ws://localhost", "--password-file", "/nowhere"), "needs --username"),
        (("--websocket", "ws://localhost", "--username", "a", "--password-file", "/nowhere"), "No such file"),
        (("--websocket", "ws://localhost", "--task", "a/b"), "task"),
        (("--websocket", "ws://localhost", "--root", "a//b"), "root"),
    ],
)
def test_what_cannot_work_is_one_line_without_the_password(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        config_of(*arguments)
    assert len(str(refused.value).splitlines()) == 1
    assert "secret" not in str(refused.value)


def test_the_command_prints_where_the_page_is_and_ends_when_told(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("only-reads\n")
    command = [sys.executable, "-m", "simulators", "watch", "--websocket", "ws://localhost:9001/mqtt", "--port", "0"]
    command += ["--username", "reader", "--password-file", str(tmp_path / "password")]
    program = subprocess.Popen(
        command, cwd=HOUSE, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with program, ended(program):
        assert program.stdout is not None
        said = program.stdout.readline()
        address = urlsplit("http://" + said.split("http://")[1].split()[0])
        connection = http.client.HTTPConnection(address.netloc, timeout=60)
        connection.request("GET", f"{address.path}config.json")
        assert json.loads(connection.getresponse().read())["password"] == "only-reads"
        connection.close()
        program.send_signal(signal.SIGTERM)
        rest, _ = program.communicate(timeout=60)
    assert program.returncode == 0
    assert "only-reads" not in said + rest
