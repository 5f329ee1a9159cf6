"""A proxy forwards and counts; cut, it holds connections until it is restored."""

import asyncio
import gc
import socket
import threading
import warnings
from collections.abc import Iterator

import pytest

from operations.proxy import Proxy, ProxyPool, Upstream, _cancel_all
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(4_096):
                    peer.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def line(echo: int) -> Iterator[Proxy]:
    with ProxyPool(Upstream(host="127.0.0.1", port=echo)) as proxies:
        yield proxies.open()


def connect(line: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", line.port), timeout=PATIENCE_SECONDS)


def hung_up(device: socket.socket) -> bool:
    """Whether the other end is gone, in order or not."""
    try:
        return device.recv(10) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("turns", range(8))
def test_nothing_stays_open_whenever_it_is_closed(turns: int) -> None:
    """The loop accepts a connection in several turns, and the proxy may be closed after any of them."""

    async def connect_and_close() -> None:
        proxy = Proxy(Upstream(host="127.0.0.1", port=9), asyncio.get_running_loop())
        await proxy.open()
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_SECONDS):
            for _ in range(turns):
                await asyncio.sleep(0)
        await proxy.close()
        await _cancel_all()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(connect_and_close())
        gc.collect()
    assert [str(one.message) for one in caught] == []


def test_a_line_carries_and_counts(line: Proxy) -> None:
    with connect(line) as device:
        device.sendall(b"12345")
        assert device.recv(10) == b"12345"
    assert (line.bytes_up, line.bytes_down) == (5, 5)


def test_a_cut_ends_the_connection_and_holds_the_next_one_until_it_is_mended(line: Proxy) -> None:
    with connect(line) as device:
        device.sendall(b"1")
        assert device.recv(10) == b"1"
        line.cut()
        assert hung_up(device)
    with connect(line) as device:
        device.sendall(b"2")
        device.settimeout(0.1)
        with pytest.raises(TimeoutError):
            device.recv(10)
        device.settimeout(PATIENCE_SECONDS)
        line.restore()
        assert device.recv(10) == b"2"


def test_who_hung_up_while_the_line_was_cut_is_not_put_through(line: Proxy) -> None:
    line.cut()
    with connect(line) as gone:
        gone.sendall(b"old")
    line.restore()
    with connect(line) as device:
        device.sendall(b"new")
        assert device.recv(10) == b"new"
    assert line.bytes_up == 3


def test_a_line_without_a_broker_behind_it_hangs_up() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        upstream = Upstream(host="127.0.0.1", port=unused.getsockname()[1])
        with ProxyPool(upstream) as proxies, connect(proxies.open()) as device:
            device.sendall(b"1")
            assert hung_up(device)
