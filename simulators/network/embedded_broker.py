"""A broker installed by pip alone: amqtt on the loopback interface, with credentials made for each run.

For experiments only: MQTT 3.1.1, everything in memory. The credentials are necessary: amqtt keeps no queue for
anonymous clients that are offline. It runs as a separate process, `asyncfedkd broker`.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import Field, SecretStr

from simulators.processes.processes import POLL_SECONDS, Child, ProcessError, Processes
from wire_contract.files.atomic_write import write_atomically
from wire_contract.program.command_settings import CommandSettings, UsageError

HOST = "127.0.0.1"
PROTOCOL = "3.1.1"
"""Given to each client: trying MQTT 5 first takes 3 s with this broker."""
START_SECONDS_MAX = 300.0
"""Generous to slow and busy machines; if it ends, that is noticed at once."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Credentials for one run."""

    username: str
    password: str


@dataclass(frozen=True, kw_only=True)
class StartedBroker:
    """A broker process that may not listen yet."""

    child: Child
    port_file: Path
    """The broker writes its MQTT port here and, if requested, its WebSocket port, one per line."""
    credentials: Credentials
    since: float
    """Start time, monotonic clock."""


class BrokerSettings(CommandSettings):
    """Runs an MQTT 3.1.1 broker on the loopback interface, in memory, for experiments."""

    port: int = Field(1883, ge=0, le=65_535, description="port on the loopback interface; 0: any free port")
    websocket_port: int | None = Field(
        None, ge=0, le=65_535, description="also listen for WebSocket (browsers) on this port; 0: any free port"
    )
    username: str = Field("fedkd", min_length=1, pattern="^[^:]*$", description="user name; there is one user")
    password: SecretStr | None = Field(None, description="password; default: a random one, which is printed")
    password_file: Path | None = Field(
        None, description="file with lines USER:ARGON2-HASH instead, for programs that start a broker"
    )
    port_file: Path | None = Field(
        None, description="file to write the port to once the broker listens, and the WebSocket port"
    )


def launch(processes: Processes, folder: Path, *, websocket: bool = False) -> StartedBroker:
    """Starts a broker as a process, with its files in `folder`. It listens after about a second, see `await_url`.

    With `websocket`, browsers can reach it as well, see `websocket_url`.
    """
    credentials = Credentials(username="demo", password=secrets.token_urlsafe(18))
    password_file, port_file = folder / "broker-passwords", folder / "broker-port"
    folder.mkdir(parents=True, exist_ok=True)
    port_file.unlink(missing_ok=True)
    write_passwords(password_file, credentials)
    arguments = ["--port", "0", "--password-file", str(password_file), "--port-file", str(port_file)]
    arguments += ["--websocket-port", "0"] if websocket else []
    child = processes.start("broker", ["-m", "simulators", "broker", *arguments])
    return StartedBroker(child=child, port_file=port_file, credentials=credentials, since=time.monotonic())


def await_url(broker: StartedBroker, processes: Processes) -> str:
    """Waits until the broker listens; returns its URL.

    Raises:
        ProcessError: it does not start.
    """
    while time.monotonic() < broker.since + START_SECONDS_MAX:
        processes.check()
        with contextlib.suppress(OSError, ValueError):
            return f"mqtt://{HOST}:{_ports(broker)[0]}"
        time.sleep(POLL_SECONDS)
    raise ProcessError(f"the embedded broker did not start within {START_SECONDS_MAX:g} s; see {broker.child.log}")


def websocket_url(broker: StartedBroker) -> str | None:
    """URL for browsers, once `await_url` has returned; None if it has no WebSocket listener."""
    ports = _ports(broker)
    return f"ws://{HOST}:{ports[1]}/mqtt" if len(ports) > 1 else None


def _ports(broker: StartedBroker) -> list[int]:
    """Raises ValueError or OSError while they are not written yet."""
    first, *more = broker.port_file.read_text().split() or [""]
    return [int(first), *map(int, more)]


def write_passwords(path: Path, credentials: Credentials) -> None:
    """Writes the password file, readable only by its owner."""
    from pwdlib.hashers.argon2 import Argon2Hasher  # noqa: PLC0415 — comes with amqtt, and only brokers need it

    # A random password of 18 bytes needs no slow hash, and a slow one would delay each connection of the demo.
    hasher = Argon2Hasher(time_cost=1, memory_cost=1024, parallelism=1)
    path.touch(mode=0o600)
    path.write_text(f"{credentials.username}:{hasher.hash(credentials.password)}\n", encoding="utf-8")


def serve(settings: BrokerSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        UsageError: the port is taken; one line.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    for port in (settings.port, settings.websocket_port or 0):
        _check_port(port)
    if settings.password_file is not None:
        asyncio.run(_serve(settings, settings.password_file, None))
        return
    # When a client disconnects without DISCONNECT, amqtt logs an error and asyncio a traceback; neither helps a user.
    for name in ("amqtt", "asyncio", "websockets"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    password = settings.password.get_secret_value() if settings.password else secrets.token_urlsafe(9)
    with tempfile.TemporaryDirectory(prefix="fedkd-broker-") as folder:
        credentials = Credentials(username=settings.username, password=password)
        write_passwords(Path(folder) / "passwords", credentials)
        asyncio.run(_serve(settings, Path(folder) / "passwords", credentials))


def _check_port(port: int) -> None:
    """Checked before: amqtt reports a taken port with two tracebacks."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError as error:
            raise UsageError(
                f"port {port} of {HOST}: {error.strerror}; give another with --port, or --port 0 for a free one"
            ) from None


async def _serve(settings: BrokerSettings, password_file: Path, shown: Credentials | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from libraries that amqtt imports
        from simulators.network.amqtt_fixes import PatchedBroker  # noqa: PLC0415 — takes a second, only needed here

        broker = PatchedBroker(_configuration(settings, password_file))
        await broker.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # amqtt has no public way to ask for its ports.
    servers = [broker._servers[name] for name in _listeners(settings)]  # noqa: SLF001
    ports = [server.instance.sockets[0].getsockname()[1] for server in servers]
    if settings.port_file is not None:
        write_atomically(settings.port_file, "\n".join(map(str, ports)).encode(), sync="nothing")
    if shown is not None:
        print("\n".join(_instructions(ports, shown)), flush=True)
    await stop.wait()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(broker.shutdown(), 3.0)


def _instructions(ports: list[int], credentials: Credentials) -> list[str]:
    """What to print for a user who started the broker by hand."""
    user = f"{quote(credentials.username, safe='')}:{quote(credentials.password, safe='')}"
    lines = ["The broker listens on this machine. Ctrl-C stops it, and its data is lost. For the other programs:"]
    lines.append(f"  export FEDKD_BROKER=mqtt://{user}@{HOST}:{ports[0]} FEDKD_MQTT={PROTOCOL}")
    lines += [f"For browsers: ws://{HOST}:{port}/mqtt, as user {credentials.username}" for port in ports[1:]]
    return lines


def _configuration(settings: BrokerSettings, password_file: Path) -> dict[str, Any]:
    return {
        "listeners": _listeners(settings),
        "plugins": {
            "amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(password_file)},
        },
    }


def _listeners(settings: BrokerSettings) -> dict[str, dict[str, str]]:
    """MQTT first, then WebSocket."""
    listeners = {"default": {"type": "tcp", "bind": f"{HOST}:{settings.port}"}}
    port = settings.websocket_port
    return listeners if port is None else listeners | {"websocket": {"type": "ws", "bind": f"{HOST}:{port}"}}
