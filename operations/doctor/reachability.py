"""Whether somebody listens at all, and who they say they are: name, TCP, TLS, in words for a person."""

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wire_contract.transport.dialing import Dialer, encrypt
from wire_contract.transport.tls_failures import certificate_problem

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Somebody listens."""

    seconds: float
    """For name, TCP and TLS together."""
    is_local: bool
    """What is sent does not leave this machine."""
    certificate_ends_unix: float | None
    """When the broker's certificate expires; None: not encrypted."""


@dataclass(frozen=True, kw_only=True)
class Unreached:
    """Nobody does, or not as they should."""

    line: str
    advice: str


def reach(
    host: str, port: int, tls: ssl.SSLContext | None, *, seconds_max: float, clock: Callable[[], float]
) -> Reached | Unreached:
    """Opens a connection and ends it again."""
    started = clock()
    try:
        is_local, ends = _within(seconds_max, lambda: _open(host, port, tls, seconds_max))
    except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
        return explained(error, host=host, port=port)
    return Reached(seconds=clock() - started, is_local=is_local, certificate_ends_unix=ends)


def _open(host: str, port: int, tls: ssl.SSLContext | None, seconds_max: float) -> tuple[bool, float | None]:
    deadline = time.monotonic() + seconds_max
    with Dialer(host, port).dial(lambda: time.monotonic() < deadline) as plain:
        is_local = ipaddress.ip_address(plain.getpeername()[0].partition("%")[0]).is_loopback
        if tls is None:
            return is_local, None
        with encrypt(plain, tls, host) as encrypted:
            certificate = encrypted.getpeercert() or {}
            ends = certificate.get("notAfter")
            return is_local, ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None


def _within(seconds_max: float, act: Callable[[], T]) -> T:
    """A name look-up cannot be bounded otherwise.

    Raises:
        TimeoutError: it takes longer.
        Exception: whatever `act` raises.
    """
    answers: queue.Queue[T | Exception] = queue.Queue()

    def run() -> None:
        try:
            answers.put(act())
        except Exception as error:  # noqa: BLE001 — it is raised again where it is waited for
            answers.put(error)

    threading.Thread(target=run, name="reach", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds_max + 1)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def explained(error: Exception, *, host: str, port: int) -> Unreached:
    """What an error of the socket means, and what to do."""
    where = f"{host}:{port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(error, where)
    if isinstance(error, ssl.SSLError):
        line = f"{where} does not speak TLS as asked: {getattr(error, 'reason', None) or error}"
        return Unreached(line=line, advice="use mqtt:// or ws:// if this port is not encrypted; else give another port")
    for kind, what, advice in _ERRORS:
        if isinstance(error, kind):
            return Unreached(line=what.format(where=where, host=host), advice=advice)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Unreached(line=f"{where} cannot be reached: {reason}", advice="look at --broker")


_ERRORS: Sequence[tuple[type[Exception], str, str]] = (
    (socket.gaierror, "the name {host} cannot be resolved", "look at the host in --broker"),
    (ConnectionRefusedError, "nobody listens on {where}", "start the broker, or look at the port in --broker"),
    (TimeoutError, "{where} does not answer in time", "look at the address, and for a firewall"),
    (ConnectionResetError, "{where} ends the connection at once", "look at the port in --broker"),
)


def _untrusted(error: ssl.SSLCertVerificationError, where: str) -> Unreached:
    cause = certificate_problem(error)
    return Unreached(line=f"the certificate of {where} {cause.what}", advice=cause.mend)
