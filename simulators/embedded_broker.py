"""A broker that pip alone brings: amqtt on a free port of the loopback, with a user and password made for this run.

It is for looking and trying: MQTT 3.1.1 only, everything in memory. The credentials are not decoration: amqtt keeps no
queue for anonymous clients that are offline. Run as a process of its own with `python -m simulators broker`.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from simulators.processes import POLL_SECONDS, Child, ProcessError, Processes
from wire_contract.connection import CommandSettings

HOST = "127.0.0.1"
PROTOCOL = "3.1.1"
"""Said to each client: finding out by trying MQTT 5 first costs 3 s here."""
START_SECONDS_MAX = 20.0


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Made for one run."""

    username: str
    password: str


@dataclass(frozen=True, kw_only=True)
class Launched:
    """One that is coming up."""

    child: Child
    port_file: Path
    credentials: Credentials
    since: float
    """On the monotonic clock."""


class BrokerSettings(CommandSettings):
    """An MQTT broker on the loopback, in memory, for trying things out."""

    password_file: Path = Field(description="lines USER:ARGON2-HASH, as `passwords` writes them")
    port_file: Path = Field(description="file that takes the port once the broker listens")
    port: int = Field(0, ge=0, le=65_535, description="port of the loopback; 0: a free one")


def launch(processes: Processes, folder: Path) -> Launched:
    """Starts one as a process; its files go to `folder`. It takes a second to listen, see `await_url`."""
    credentials = Credentials(username="demo", password=secrets.token_urlsafe(18))
    password_file, port_file = folder / "broker-passwords", folder / "broker-port"
    folder.mkdir(parents=True, exist_ok=True)
    port_file.unlink(missing_ok=True)
    write_passwords(password_file, credentials)
    arguments = ["--password-file", str(password_file), "--port-file", str(port_file)]
    child = processes.start("broker", ["-m", "simulators", "broker", *arguments])
    return Launched(child=child, port_file=port_file, credentials=credentials, since=time.monotonic())


def await_url(broker: Launched, processes: Processes) -> str:
    """Its URL, as soon as it listens.

    Raises:
        ProcessError: it does not come up.
    """
    while time.monotonic() < broker.since + START_SECONDS_MAX:
        processes.check()
        with contextlib.suppress(OSError, ValueError):
            return f"mqtt://{HOST}:{int(broker.port_file.read_text())}"
        time.sleep(POLL_SECONDS)
    raise ProcessError(f"the embedded broker does not come up within {START_SECONDS_MAX:g} s; see {broker.child.log}")


def write_passwords(path: Path, credentials: Credentials) -> None:
    """The one user's line, readable by this user alone."""
    from pwdlib.hashers.argon2 import Argon2Hasher  # noqa: PLC0415 — comes with amqtt, and only brokers need it

    # A random password of 18 bytes needs no slow hash, and each of the demo's connections would pay for one.
    hasher = Argon2Hasher(time_cost=1, memory_cost=1024, parallelism=1)
    path.touch(mode=0o600)
    path.write_text(f"{credentials.username}:{hasher.hash(credentials.password)}\n", encoding="utf-8")


def serve(settings: BrokerSettings) -> None:
    """Until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_serve(settings))


async def _serve(settings: BrokerSettings) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the libraries that amqtt imports
        from amqtt.broker import Broker  # noqa: PLC0415 — takes a second, which only this command needs

        broker = Broker(_configuration(settings))
        await broker.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # amqtt does not say which port it was given.
    port = broker._servers["default"].instance.sockets[0].getsockname()[1]  # noqa: SLF001
    scratch = settings.port_file.with_suffix(".new")
    scratch.write_text(str(port))
    scratch.replace(settings.port_file)
    await stop.wait()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(broker.shutdown(), 3.0)


def _configuration(settings: BrokerSettings) -> dict[str, Any]:
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{settings.port}"}},
        "plugins": {
            "amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(settings.password_file)},
        },
    }
