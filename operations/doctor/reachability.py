"""Whether the broker can be reached: name look-up, TCP, TLS; failures explained in words."""

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
    """The broker can be reached."""

    seconds: float
    """For name look-up, TCP and TLS together."""
    is_local: bool
    """The address is a loopback address."""
    certificate_ends_unix: float | None
    """Expiry of the broker's certificate; None: not encrypted."""


@dataclass(frozen=True, kw_only=True)
class Unreached:
    """The broker cannot be reached, or its certificate is not valid."""

    line: str
    advice: str


def reach(
    host: str, port: int, tls: ssl.SSLContext | None, *, seconds_max: float, clock: Callable[[], float]
) -> Reached | Unreached:
    """Opens a connection and closes it again."""
    started = clock()
    try:
        is_local, ends = _within(seconds_max, lambda: _open(host, port, tls, seconds_max))
    except (OSError, ValueError) as error:  # ValueError: not a valid host name
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
    """Runs `act` in a thread: a name look-up cannot be bounded otherwise.

    Raises:
        TimeoutError: it took longer.
        Exception: whatever `act` raises.
    """
    answers: queue.Queue[T | Exception] = queue.Queue()

    def run() -> None:
        try:
            answers.put(act())
        except Exception as error:  # noqa: BLE001 — it is raised again in the caller
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
    """What an error of the connection means, and what to do."""
    where = f"{host}:{port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(error, where)
    if isinstance(error, ssl.SSLError):
        line = f"{where} does not speak TLS as asked: {getattr(error, 'reason', None) or error}"
        return Unreached(
            line=line, advice="use mqtt:// or ws:// if this port is not encrypted; otherwise use another port"
        )
    for kind, what, advice in _ERRORS:
        if isinstance(error, kind):
            return Unreached(line=what.format(where=where, host=host), advice=advice)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Unreached(line=f"{where} cannot be reached: {reason}", advice="check --broker")


_ERRORS: Sequence[tuple[type[Exception], str, str]] = (
    (socket.gaierror, "the name {host} cannot be resolved", "check the host in --broker"),
    (ConnectionRefusedError, "nothing listens on {where}", "start the broker, or check the port in --broker"),
    (TimeoutError, "{where} does not answer in time", "check the address and firewalls"),
    (ConnectionResetError, "{where} closes the connection at once", "check the port in --broker"),
)


def _untrusted(error: ssl.SSLCertVerificationError, where: str) -> Unreached:
    cause = certificate_problem(error)
    return Unreached(line=f"the certificate of {where} {cause.what}", advice=cause.mend)
