"""A link's own thread: connects, sends and receives, waits after a failure, and connects again, for ever.

Everything that touches the connection happens here, in one thread; an `MqttClient` speaks MQTT.
"""

import logging
import ssl
import time
from collections.abc import Callable
from threading import Thread
from typing import Any, Protocol

from wire_contract.link.credentials import Credentials
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.link.protocol import Disconnected
from wire_contract.link.shared_state import LinkState
from wire_contract.transport.dialing import Dialer, EncryptedSocket, PlainSocket, ShouldContinue, encrypt
from wire_contract.transport.poller import Poller
from wire_contract.transport.reconnect import (
    ClientIdConflictDetector,
    ConnectionAttempt,
    DisconnectExplainer,
    ReconnectBackoff,
    reason_of,
)

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""The thread gives a sign of life at least this often."""
READS_MAX = 64
"""Packets read in a row before acknowledgements and publications are sent, so that a backlog does not delay these."""
ANSWER_SECONDS_MAX = 10.0
"""For the broker's answer to CONNECT."""
PROBE_SECONDS_MAX = 3.0
"""For the first answer to a CONNECT of MQTT 5 if the broker may not know it: some misread it and wait for more
bytes."""

Opened = PlainSocket | EncryptedSocket
Open = Callable[[], Opened]


class MqttClient(Protocol):
    """Speaks one version of MQTT, over one connection after another."""

    attempt: ConnectionAttempt
    """Result of the current connection."""
    packets_read: int

    def open(self, dial: Open, *, password: str | None) -> Any:
        """Connects and sends CONNECT; returns the connection, for a selector.

        Raises:
            OSError, ValueError: the broker cannot be reached.
        """

    def is_over(self, connection: Any) -> bool:
        """Whether this connection has ended."""

    def wants_to_write(self) -> bool: ...

    def read(self) -> None:
        """Reads one packet, or a part of one."""

    def write(self) -> None: ...

    def keep_alive(self) -> None:
        """Sends pings and checks for timeouts; call it at least every second."""

    def hand_over(self) -> None:
        """Passes on what the users have queued."""

    def say_goodbye(self) -> None: ...

    def hang_up(self) -> None:
        """Closes a connection that is still open without DISCONNECT, so that the broker publishes the will."""


class NetworkThread:
    """Runs until the shared state says `stopping`."""

    def __init__(
        self,
        settings: MqttSettings,
        state: LinkState,
        make: Callable[[bool], MqttClient],
        *,
        uniform: Callable[[float, float], float],
        clock: Callable[[], float],
    ) -> None:
        """`make` makes a client for MQTT 5 (True) or 3.1.1 (False).

        Raises:
            LinkError: the password file or a TLS file cannot be used.
        """
        self._settings = settings
        self._state = state
        self._make = make
        self._clock = clock
        self._credentials = Credentials(settings)
        self._dialer = Dialer(settings.host, settings.port)
        self._explainer = DisconnectExplainer(
            settings.client_id,
            encrypted=settings.tls is not None,
            certificate_file=self._credentials.certificate_file,
        )
        self._conflicts = ClientIdConflictDetector(clock)
        self._backoff = ReconnectBackoff(
            spread_seconds=settings.reconnect_spread_seconds,
            shortest_seconds=settings.reconnect_delay_seconds,
            longest_seconds=settings.reconnect_delay_max_seconds,
            uniform=uniform,
            clock=clock,
        )
        self._opened: Opened | None = None
        self._v5 = settings.protocol != "3.1.1"
        self._protocol_settled = settings.protocol != "auto"
        self.thread = Thread(target=self._run, name=f"mqtt {settings.client_id}", daemon=True)

    def _run(self) -> None:
        state = self._state
        client = self._make(self._v5)
        try:
            while not state.stopping:
                client = self._connect_once(client)
        except BaseException as failure:  # noqa: BLE001 — whatever it is, `receive` reports it
            state.give_up(failure)
        finally:
            client.hang_up()
            state.end_epoch()
            state.give_up()
            state.events.close()
            state.wakeup.close()

    def _connect_once(self, client: MqttClient) -> MqttClient:
        """One connection, from the attempt to the delay after it. Returns the client for the next one."""
        state = self._state
        self._rest_until(lambda: state.events.has_room or state.closing)
        attempt = client.attempt = ConnectionAttempt()
        if self._credentials.renew():
            log.info("%s: the renewed credentials are used from now on", self._settings.address)
        self._forget_opened()
        try:
            connection = client.open(self._open, password=self._credentials.password)
        except (OSError, ValueError) as error:  # ValueError: an invalid host name
            self._close_opened()
            if isinstance(error, ssl.SSLError):
                attempt.error = error
            attempt.ending = f"cannot be reached: {reason_of(error)}"
        else:
            attempt.reached = True
            if self._opened is not None:
                self._opened.deadline = None
            self._serve_connection(client, connection)
            attempt.error = None if self._opened is None else self._opened.failure
        client.hang_up()
        state.end_epoch()
        if state.stopping:
            return client
        self._note_outcome(attempt)
        if self._speaks_another_version(attempt):
            self._v5 = not self._v5
            state.outgoing.take_back()
            client = self._make(self._v5)
            if not self._v5:
                log.info("%s does not speak MQTT 5, trying 3.1.1", self._settings.address)
                return client
        suspected = self._conflicts.suspects_conflict_after(attempt)
        ending = self._explainer.ending(attempt, suspected=suspected)
        state.events.put(Disconnected(f"broker {self._settings.address}: {ending}", refused=attempt.refused))
        self._rest(self._backoff.after(attempt))
        return client

    def _note_outcome(self, attempt: ConnectionAttempt) -> None:
        if attempt.established_at is not None:
            self._protocol_settled = True
            self._dialer.clear_suspects()
        elif self._opened is not None:
            self._dialer.suspect_last()
        if isinstance(attempt.error, ssl.SSLError):
            self._credentials.doubt()

    def _speaks_another_version(self, attempt: ConnectionAttempt) -> bool:
        """Whether the broker needs another version of MQTT.

        Some brokers say so. Others only close the connection after a CONNECT that they do not understand, but so does
        a broker that is shutting down: this counts only until one version has worked.
        """
        silent = attempt.reached and not attempt.answered and not isinstance(attempt.error, ssl.SSLError)
        hung_up = silent and not self._protocol_settled
        return self._settings.protocol == "auto" and (attempt.unsupported or hung_up)

    def _open(self) -> Opened:
        """Opens a connection, with TLS if it is configured.

        Raises:
            OSError, ValueError: the broker cannot be reached.
        """
        should_continue: ShouldContinue = self._keep_on
        plain = self._dialer.dial(should_continue)
        self._opened = plain
        if self._credentials.tls is not None:
            self._opened = encrypt(plain, self._credentials.tls, self._settings.host)
        self._opened.deadline = time.monotonic() + ANSWER_SECONDS_MAX  # for paho's WebSocket handshake, byte by byte
        return self._opened

    def _forget_opened(self) -> None:
        self._opened = None

    def _close_opened(self) -> None:
        """Closes the socket, which paho does not do when a WebSocket handshake fails."""
        if self._opened is not None:
            self._opened.close()

    def _keep_on(self) -> bool:
        self._state.moved()
        return not self._state.stopping

    def _serve_connection(self, client: MqttClient, connection: Any) -> None:
        """Sends and receives until the connection ends."""
        state = self._state
        is_probe = self._v5 and not self._protocol_settled
        answer_until = time.monotonic() + (PROBE_SECONDS_MAX if is_probe else ANSWER_SECONDS_MAX)
        goodbye_until: float | None = None
        with Poller(connection, state.wakeup) as poller:
            while not client.is_over(connection):
                state.moved()
                if not client.attempt.answered and time.monotonic() > answer_until:
                    client.attempt.ending = "does not answer as an MQTT broker"
                    return
                if goodbye_until is None:
                    client.hand_over()
                    if state.stopping:
                        goodbye_until = time.monotonic() + TICK_SECONDS
                        client.say_goodbye()
                elif time.monotonic() > goodbye_until:
                    return
                readable, writable = poller.wait(TICK_SECONDS, read=state.may_read(), write=client.wants_to_write())
                if readable:
                    self._read(client, connection)
                if writable:
                    client.write()
                client.keep_alive()

    def _read(self, client: MqttClient, connection: Any) -> None:
        """Reads what has arrived, up to READS_MAX packets; a client reads one packet at a time."""
        for _ in range(READS_MAX):
            before = client.packets_read
            client.read()
            if client.packets_read == before or not self._state.events.has_room or client.is_over(connection):
                return

    def _rest(self, seconds: float) -> None:
        """Waits; shorter if the credentials are renewed meanwhile, as the next attempt may then succeed."""
        until = time.monotonic() + seconds
        self._rest_until(lambda: time.monotonic() >= until or self._credentials.touched(), until)
        if time.monotonic() < until:
            self._backoff.reset()

    def _rest_until(self, over: Callable[[], bool], until: float | None = None) -> None:
        def seconds_left() -> float:
            return TICK_SECONDS if until is None else until - time.monotonic()

        self._state.rest_until(over, tick_seconds=TICK_SECONDS, seconds_left=seconds_left)
