"""Opens a TCP connection to a host with several addresses, of which all but one may be unreachable.

The addresses are tried a quarter of a second apart, without waiting for the earlier ones, alternating between IPv6 and
IPv4 (RFC 8305, "Happy Eyeballs"). The first that answers is used. Nothing here blocks for longer than a tick: the name
is looked up in a thread of its own, as a lookup has no timeout.
"""

import errno
import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple, cast

from wire_contract.transport.reconnect import reason_of

LOOKUP_SECONDS_MAX = 20.0
"""About the time that a resolver takes to give up on three servers that do not answer."""
CONNECT_SECONDS_MAX = 10.0
"""For each address, and then for the TLS handshake."""
STAGGER_SECONDS = 0.25
"""Between attempts at two addresses; RFC 8305 recommends 250 ms."""
ADDRESSES_MAX = 64
"""Addresses of one name that are tried."""
TICK_SECONDS = 1.0
"""`should_continue` is called at least this often."""
_UNDER_WAY = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK})


class Address(NamedTuple):
    """An address of a host."""

    family: int
    sockaddr: tuple[Any, ...]


Resolve = Callable[[str, int], Sequence[Address]]
ShouldContinue = Callable[[], bool]
"""Called at least once per tick; False ends the attempt."""


def look_up(host: str, port: int) -> Sequence[Address]:
    """Looks a name up as the system does; the result may contain duplicates.

    Raises:
        OSError: there is no such name, or the lookup failed.
        ValueError: the host name is invalid.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


_NO_FAILURES = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""Not ready yet, or closed by the other side, which is no failure of the connection."""


class FailureRecorder:
    """A socket that remembers the error that ended it, which paho does not report, and can have a deadline."""

    failure: OSError | None = None
    deadline: float | None = None
    """Monotonic seconds; reading fails after it, even if bytes still trickle in."""

    def _check_time(self) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.failure = TimeoutError(errno.ETIMEDOUT, "the handshake takes too long")
            raise self.failure

    def _note(self, error: OSError) -> None:
        if not isinstance(error, _NO_FAILURES):
            self.failure = self.failure or error


class PlainSocket(FailureRecorder, socket.socket):
    """TCP."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        self._check_time()
        try:
            return super().recv(bufsize, flags)
        except OSError as error:
            self._note(error)
            raise

    def send(self, data: Any, flags: int = 0, /) -> int:
        try:
            return super().send(data, flags)
        except OSError as error:
            self._note(error)
            raise


class EncryptedSocket(FailureRecorder, ssl.SSLSocket):
    """TLS."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        self._check_time()
        try:
            return super().recv(buflen, flags)
        except OSError as error:
            self._note(error)
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except OSError as error:
            self._note(error)
            raise


class _LookUp:
    """One lookup, in a thread of its own, which may outlive whoever waits for it."""

    def __init__(self, resolve: Resolve, host: str, port: int) -> None:
        self.done = threading.Event()
        self._answer: Sequence[Address] | Exception = []
        threading.Thread(target=self._run, args=(resolve, host, port), name=f"look up {host}", daemon=True).start()

    def _run(self, resolve: Resolve, host: str, port: int) -> None:
        try:
            self._answer = resolve(host, port)
        except Exception as error:  # noqa: BLE001 — it is raised where it is waited for
            self._answer = error
        self.done.set()

    def result(self) -> Sequence[Address]:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class Dialer:
    """Connects to one host, again and again. Not thread-safe."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        resolve: Resolve = look_up,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`host` may be an IPv6 address with a zone, as in fe80::1%eth0."""
        self._host = host
        self._port = port
        self._resolve = resolve
        self._clock = clock
        self._look_up: _LookUp | None = None
        self._doubted: dict[Address, None] = {}
        self._newest: Address | None = None

    def dial(self, should_continue: ShouldContinue) -> PlainSocket:
        """Connects to the first address that answers.

        Raises:
            OSError: no address answers, the name is unknown or cannot be looked up in time, or `should_continue` said
                no. If all addresses fail for the same reason, it is of that kind (`ConnectionRefusedError`).
            ValueError: the host name is invalid.
        """
        addresses = interleave_families(self._addresses(should_continue))[:ADDRESSES_MAX]
        addresses.sort(key=lambda address: address in self._doubted)  # stable: those go last
        connection, self._newest = _HappyEyeballs(addresses, self._clock).run(should_continue)
        return connection

    def suspect_last(self) -> None:
        """The address that answered last turned out to be no broker; from now on the others are tried first."""
        if self._newest is not None:
            self._doubted[self._newest] = None

    def clear_suspects(self) -> None:
        """An MQTT broker has answered; all addresses are tried in their usual order again."""
        self._doubted.clear()

    def _addresses(self, should_continue: ShouldContinue) -> Sequence[Address]:
        look_up = self._look_up = self._look_up or _LookUp(self._resolve, self._host, self._port)
        deadline = self._clock() + LOOKUP_SECONDS_MAX
        while not look_up.done.wait(TICK_SECONDS):
            if not should_continue() or self._clock() > deadline:
                raise OSError(
                    errno.ETIMEDOUT, f"the name {self._host} could not be looked up in {LOOKUP_SECONDS_MAX:.0f} s"
                )
        self._look_up = None
        return look_up.result()


class _HappyEyeballs:
    """One attempt at all addresses of a host (RFC 8305)."""

    def __init__(self, addresses: Sequence[Address], clock: Callable[[], float]) -> None:
        self._count = len(addresses)
        self._waiting = deque(addresses)
        self._clock = clock
        self._next_at = clock()
        self._selector = selectors.DefaultSelector()
        self._trying: dict[PlainSocket, tuple[Address, float]] = {}
        """Each with the time at which it is given up."""
        self._reasons: dict[int, str] = {}
        """Error texts by errno."""

    def run(self, should_continue: ShouldContinue) -> tuple[PlainSocket, Address]:
        try:
            while self._waiting or self._trying:
                if not should_continue():
                    raise OSError(errno.ECANCELED, "stopped")
                if self._waiting and (self._clock() >= self._next_at or not self._trying):
                    self._begin(self._waiting.popleft())
                winner = self._look()
                if winner is not None:
                    address, _ = self._trying.pop(winner)
                    return winner, address
                for connection, (_, until) in tuple(self._trying.items()):
                    if self._clock() >= until:
                        self._give_up(connection, errno.ETIMEDOUT)
        finally:
            self._selector.close()
            for connection in self._trying:
                connection.close()
        none_of = f"none of its {self._count} addresses answers: " if self._count > 1 else ""
        number = next(iter(self._reasons)) if len(self._reasons) == 1 else errno.EHOSTUNREACH
        raise OSError(number, none_of + "; ".join(self._reasons.values()))

    def _begin(self, address: Address) -> None:
        now = self._clock()
        try:
            connection = PlainSocket(address.family, socket.SOCK_STREAM)
        except OSError as error:  # this machine does not support that address family
            self._reasons[error.errno or errno.EAFNOSUPPORT] = reason_of(error)
            return
        connection.setblocking(False)
        failed = connection.connect_ex(address.sockaddr)
        if failed not in _UNDER_WAY:
            connection.close()
            self._reasons[failed] = os.strerror(failed)
            return
        self._trying[connection] = address, now + CONNECT_SECONDS_MAX
        self._selector.register(connection, selectors.EVENT_WRITE)
        self._next_at = now + STAGGER_SECONDS

    def _look(self) -> PlainSocket | None:
        """Waits until an address has answered, or something else is to be done."""
        now = self._clock()
        wake_at = min((until for _, until in self._trying.values()), default=now)
        if self._waiting:
            wake_at = min(wake_at, self._next_at)
        for key, _ in self._selector.select(max(0.0, min(TICK_SECONDS, wake_at - now))):
            connection = cast("PlainSocket", key.fileobj)
            failed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not failed:
                return connection
            self._give_up(connection, failed)
            self._next_at = now  # the next address is tried at once
        return None

    def _give_up(self, connection: PlainSocket, number: int) -> None:
        self._reasons[number] = os.strerror(number)
        self._selector.unregister(connection)
        del self._trying[connection]
        connection.close()


def interleave_families(addresses: Sequence[Address]) -> list[Address]:
    """Each address once, alternating between the two families, the first one's first."""
    each = list(dict.fromkeys(addresses))
    first = [address for address in each if address.family == each[0].family]
    others = [address for address in each if address.family != each[0].family]
    return [address for address in chain.from_iterable(zip_longest(first, others)) if address is not None]


def encrypt(connection: PlainSocket, context: ssl.SSLContext, host: str) -> EncryptedSocket:
    """Starts TLS; the certificate must be valid for `host` (without the zone of an IPv6 address).

    Raises:
        ssl.SSLError: one side does not accept the other.
        OSError: the connection ended, or the handshake takes longer than `CONNECT_SECONDS_MAX`.
    """
    context.sslsocket_class = EncryptedSocket
    connection.settimeout(CONNECT_SECONDS_MAX)
    try:
        encrypted = context.wrap_socket(connection, server_hostname=host.partition("%")[0])
    except BaseException:
        connection.close()
        raise
    return cast("EncryptedSocket", encrypted)
