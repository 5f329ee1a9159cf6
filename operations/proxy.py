"""TCP proxies on the loopback, one for each client: a proxy can be cut and restored, and counts the bytes through it.

The broker is not touched and may be anybody's: only the client behind the proxy loses its connection. While a proxy is
cut it still accepts connections but forwards nothing, like a radio without signal; once it is restored, clients that
are still connected are forwarded. To a TLS broker the proxy itself speaks TLS and the client connects to it without:
the broker's certificate would not match the loopback address.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

T = TypeVar("T")

_READ_BYTES_MAX = 65_536
"""As the default limit of asyncio's streams."""
_CLOSE_SECONDS_MAX = 2.0
"""A TLS close waits for the peer, which may be gone."""
_CALL_SECONDS_MAX = 10.0
"""For one operation in the event loop's thread; all of them are local and take milliseconds."""
_ACCEPT_TURNS = 4
"""Turns of the loop in which asyncio makes a stream of a socket that it has accepted. If the server is closed or its
task cancelled before them, asyncio loses the socket."""
_SETTLE_SECONDS = 0.02
"""Before a held connection is forwarded: time to notice that its client is just closing it."""


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """The broker that the proxies forward to."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class Proxy:
    """One client's proxy; `ProxyPool.open` makes it. Its methods may be called from any thread."""

    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        self.port = 0
        self.bytes_up = 0
        """TCP payload from the client to the broker."""
        self.bytes_down = 0
        """TCP payload from the broker to the client."""
        self._upstream = upstream
        self._loop = loop
        self._forwarding = asyncio.Event()
        self._forwarding.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def is_cut(self) -> bool:
        return not self._forwarding.is_set()

    def cut(self) -> None:
        """Drops the connection without an MQTT DISCONNECT, and forwards nothing until `restore`."""
        _call(self._loop, self._cut())

    def restore(self) -> None:
        """Forwards again, including connections accepted while it was cut."""
        _call(self._loop, self._restore())

    async def open(self) -> None:
        """Listens on a free port of the loopback interface."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._closing = True
        if self._server is not None:
            for listener in self._server.sockets:
                self._loop.remove_reader(listener.fileno())  # no further connection is accepted
            for _ in range(_ACCEPT_TURNS):
                await asyncio.sleep(0)
            self._server.close()
        await self._drop_connections()

    async def _cut(self) -> None:
        self._forwarding.clear()
        await self._drop_connections()

    async def _restore(self) -> None:
        self._forwarding.set()

    async def _drop_connections(self) -> None:
        connections = tuple(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves a connection in a task, which may be cancelled before it has begun: its end is a callback's work."""
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._connections.discard(task)
            writer.transport.abort()

        task.add_done_callback(ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):  # either end closed, or the proxy was cut
            await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(_READ_BYTES_MAX)
        await self._forwarding.wait()
        await asyncio.sleep(_SETTLE_SECONDS)
        if not first or reader.at_eof() or reader.exception() is not None:
            return  # the client is gone; forwarding its CONNECT would take over the session of its next connection
        upstream = self._upstream
        far_reader, far_writer = await asyncio.open_connection(
            upstream.host, upstream.port, ssl=upstream.tls, server_hostname=upstream.host if upstream.tls else None
        )
        try:
            self.bytes_up += len(first)
            far_writer.write(first)
            directions = {
                asyncio.ensure_future(self._copy(reader, far_writer, up=True)),
                asyncio.ensure_future(self._copy(far_reader, writer, up=False)),
            }
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
                await asyncio.gather(*directions, return_exceptions=True)
        finally:
            if not (self.is_cut or self._closing):
                await _close(far_writer)
            far_writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while data := await reader.read(_READ_BYTES_MAX):
            if up:
                self.bytes_up += len(data)
            else:
                self.bytes_down += len(data)
            writer.write(data)
            await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Closes gracefully, for a bounded time."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), _CLOSE_SECONDS_MAX)


class ProxyPool:
    """All proxies to one broker, in a thread with its own event loop."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._proxies: list[Proxy] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> Proxy:
        """A new proxy, listening and forwarding."""
        proxy = Proxy(self._upstream, self._loop)
        _call(self._loop, proxy.open())
        self._proxies.append(proxy)
        return proxy

    def close(self) -> None:
        for proxy in self._proxies:
            with contextlib.suppress(TimeoutError):
                _call(self._loop, proxy.close())
        with contextlib.suppress(TimeoutError):
            _call(self._loop, _cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS_MAX)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_all() -> None:
    """Cancels tasks that no proxy has registered: connections accepted just now, and closes under way."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    for _ in range(4):  # an aborted transport closes its socket one turn of the loop later, over TLS three turns
        await asyncio.sleep(0)


def _call(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(_CALL_SECONDS_MAX)
