"""Brokers of other kinds: the embedded one, and one that only says what the test tells it."""

import asyncio
import gc
import logging
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.broker.mosquitto import free_port


class AmqttPorts(NamedTuple):
    mqtt: int
    websockets: int


@pytest.fixture
def amqtt_ports(tmp_path: Path) -> Iterator[AmqttPorts]:
    """An amqtt that knows the user `device` with the password `secret`, in a thread with its own event loop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the libraries that amqtt imports
        from amqtt.broker import Broker  # noqa: PLC0415 — only this fixture needs it
        from amqtt.plugins.authentication import PasswordHash  # noqa: PLC0415
        from pwdlib.hashers.argon2 import Argon2Hasher  # noqa: PLC0415

        from simulators.network.amqtt_fixes import Subscriptions  # noqa: PLC0415 — imports amqtt
    logging.getLogger("transitions").setLevel(logging.WARNING)
    password_file = tmp_path / "amqtt-passwords"
    password_file.write_text(f"device:{PasswordHash((Argon2Hasher(),)).hash('secret')}\n")
    ports = AmqttPorts(free_port(), free_port())
    # It leaves transports and accepted sockets to the garbage collector, which may run at any moment of the test.
    of_streams = ("unclosed transport", "unclosed <StreamWriter", "loop is closed")
    for left in (*of_streams, *(rf"unclosed <socket.*laddr=\('127\.0\.0\.1', {port}\)" for port in ports)):
        warnings.filterwarnings("ignore", message=left, category=ResourceWarning)
    config = {
        "listeners": {
            "default": {"type": "tcp", "bind": f"127.0.0.1:{ports.mqtt}"},
            "websockets": {"type": "ws", "bind": f"127.0.0.1:{ports.websockets}"},
        },
        "plugins": {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(password_file)}},
    }
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        broker = Broker(config)
        broker._subscriptions = Subscriptions()  # or a busy machine would now and then break a connection
        await broker.start()
        started.set()
        await stop.wait()
        await broker.shutdown()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(60)
    yield ports
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()
    gc.collect()


Script = Callable[[Any, bytes], None]
"""What is said to one connection, after its first packet."""


@pytest.fixture
def scripted_broker() -> Iterator[Callable[..., int]]:
    """Starts a listener that hands each connection and its first packet to the script. Gives the port."""
    listeners: list[socket.socket] = []

    def start(script: Script, tls: ssl.SSLContext | None = None) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    with tls.wrap_socket(connection, server_side=True) if tls else connection as peer:
                        script(peer, peer.recv(4096))
                except OSError:
                    continue

        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
