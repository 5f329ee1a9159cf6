"""A line between one device and the broker that can be cut and mended, and that counts what goes over it.

The broker is not touched and need not be ours: only this device loses its connection, as one does that leaves the
house. While the line is cut, a connection is accepted and nothing comes back, as with a radio that has no signal;
once it is mended, whoever is still waiting is put through. To an encrypted broker the line itself is encrypted, since a
certificate for the broker's name would not fit this machine's address.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

T = TypeVar("T")

_PIECE_BYTES = 65_536
_CLOSE_SECONDS_MAX = 2.0
_CALL_SECONDS_MAX = 10.0
_NOTICE_SECONDS = 0.02
"""For a hang-up that is under way, before a connection is put through."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the lines lead."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class Line:
    """One device's line. Its methods may be called from any thread; made by `Exchange.line`."""

    def __init__(self, target: Target, loop: asyncio.AbstractEventLoop) -> None:
        self.port = 0
        self.bytes_up = 0
        """TCP payload from the device to the broker."""
        self.bytes_down = 0
        self._target = target
        self._loop = loop
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def is_cut(self) -> bool:
        return not self._whole.is_set()

    def cut(self) -> None:
        """Ends the connection without a goodbye, and lets none through until `mend`."""
        _call(self._loop, self._cut())

    def mend(self) -> None:
        _call(self._loop, self._mend())

    async def open(self) -> None:
        """Listens on a free port of the loopback."""
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._closing = True
        if self._server is not None:
            self._server.close()
        await self._hang_up()

    async def _cut(self) -> None:
        self._whole.clear()
        await self._hang_up()

    async def _mend(self) -> None:
        self._whole.set()

    async def _hang_up(self) -> None:
        talks = tuple(self._talks)
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            await self._put_through(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either end went away, or the line was cut: the device finds out by itself
        finally:
            self._talks.discard(task)
            writer.transport.abort()

    async def _put_through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(_PIECE_BYTES)
        await self._whole.wait()
        await asyncio.sleep(_NOTICE_SECONDS)
        if not first or reader.at_eof() or reader.exception() is not None:
            return  # nobody waits any more; two connections of one client would throw each other out
        target = self._target
        far_reader, far_writer = await asyncio.open_connection(
            target.host, target.port, ssl=target.tls, server_hostname=target.host if target.tls else None
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
        while piece := await reader.read(_PIECE_BYTES):
            if up:
                self.bytes_up += len(piece)
            else:
                self.bytes_down += len(piece)
            writer.write(piece)
            await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    """In order, and not for ever: over TLS the far end has a say in it, and may be gone."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), _CLOSE_SECONDS_MAX)


class Exchange:
    """All lines to one broker, in a thread with an event loop of its own."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._lines: list[Line] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def line(self) -> Line:
        """A new line, open and whole."""
        line = Line(self._target, self._loop)
        _call(self._loop, line.open())
        self._lines.append(line)
        return line

    def close(self) -> None:
        for line in self._lines:
            with contextlib.suppress(TimeoutError):
                _call(self._loop, line.close())
        with contextlib.suppress(TimeoutError):
            _call(self._loop, _end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS_MAX)
        if not self._thread.is_alive():
            self._loop.close()


async def _end_all() -> None:
    """What the lines do not know of: connections that were accepted just now, and ends that are under way."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    for _ in range(4):  # a transport that was aborted closes its socket in a later turn of the loop, over TLS two later
        await asyncio.sleep(0)


def _call(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(_CALL_SECONDS_MAX)
