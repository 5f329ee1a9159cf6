"""How a fleet comes back, and what a person is told of a connection that ended."""

import random
import ssl
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.transport.reconnect import (
    TAKEN_OVER_SECONDS,
    ClientIdConflictDetector,
    ConnectionAttempt,
    DisconnectExplainer,
    ReconnectBackoff,
)

DEFAULTS = MqttSettings(host="broker", client_id="any")


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rests(
    time: Time, source: random.Random, *, spread_seconds: float = DEFAULTS.reconnect_spread_seconds
) -> ReconnectBackoff:
    return ReconnectBackoff(
        spread_seconds=spread_seconds,
        shortest_seconds=DEFAULTS.reconnect_delay_seconds,
        longest_seconds=DEFAULTS.reconnect_delay_max_seconds,
        uniform=source.uniform,
        clock=time,
    )


def returns(*, links: int, away_seconds: float, seed: int, spread_seconds: float) -> list[float]:
    """When each link of a fleet is connected again, in seconds after a broker is back that was away so long."""
    came = []
    for number in range(links):
        time, source = Time(), random.Random(f"{seed} {number}")
        own = rests(time, source, spread_seconds=spread_seconds)
        attempt = ConnectionAttempt(reached=True, answered=True, established_at=-3600.0)
        while True:
            time.now += own.after(attempt)
            if time.now >= away_seconds:
                break
            attempt = ConnectionAttempt()
        came.append(time.now - away_seconds)
    return came


def busiest_second(came: list[float]) -> int:
    return max(Counter(int(moment * 2) for moment in came).values()) * 2


@given(away_seconds=st.floats(0, 120), seed=st.integers(0, 1_000))
def test_a_fleet_does_not_come_back_all_at_once(away_seconds: float, seed: int) -> None:
    """Of 200 links 163 did within one second, when the first delay was up to a second."""
    came = returns(links=200, away_seconds=away_seconds, seed=seed, spread_seconds=5.0)
    first = sum(moment < 1 for moment in came)
    assert first <= 80, f"{first} of 200 within the first second"


@given(spread_seconds=st.sampled_from([20.0, 40.0, 60.0]), seed=st.integers(0, 1_000))
def test_a_larger_fleet_sets_a_wider_spread(spread_seconds: float, seed: int) -> None:
    came = returns(links=1_000, away_seconds=0.1, seed=seed, spread_seconds=spread_seconds)
    assert busiest_second(came) <= 2 * 1_000 / spread_seconds + 20


def test_whoever_waits_for_a_first_connection_does_not_wait_long() -> None:
    time, widths = Time(), []

    def draw(_: float, high: float) -> float:
        widths.append(high)
        return 0.0

    own = ReconnectBackoff(spread_seconds=5, shortest_seconds=1, longest_seconds=60, uniform=draw, clock=time)
    for _ in range(3):
        own.after(ConnectionAttempt())
    own.after(ConnectionAttempt(established_at=-20.0))
    own.after(ConnectionAttempt())
    own.reset()
    own.after(ConnectionAttempt())
    assert widths == [1, 2, 4, 5, 10, 5]


def brief(time: Time, **more: object) -> ConnectionAttempt:
    return ConnectionAttempt(reached=True, answered=True, established_at=time.now - 1, **more)  # type: ignore[arg-type]


def test_another_program_with_the_client_id_is_suspected_when_the_broker_hangs_up_again_and_again() -> None:
    time = Time()
    rivals = ClientIdConflictDetector(time)
    assert [rivals.suspects_conflict_after(brief(time)) for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(
    "other",
    [
        {"error": ConnectionResetError()},
        {"ending": "ended the connection: Server shutting down"},
        {"established_at": -TAKEN_OVER_SECONDS - 1},
    ],
)
def test_a_network_that_fails_and_a_connection_that_lasted_are_no_rivals(other: dict[str, object]) -> None:
    time = Time()
    rivals = ClientIdConflictDetector(time)
    for _ in range(2):
        assert not rivals.suspects_conflict_after(brief(time))
    assert not rivals.suspects_conflict_after(
        ConnectionAttempt(**{"reached": True, "answered": True, "established_at": -1.0, **other})  # type: ignore[arg-type]
    )
    assert not rivals.suspects_conflict_after(brief(time)), "they count from the beginning again"


def tell(attempt: ConnectionAttempt, *, suspected: bool = False) -> str:
    return DisconnectExplainer(client_id="fedkd:t:d", certificate_file=Path("d.pem")).ending(
        attempt, suspected=suspected
    )


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "which has expired, it says: renew d.pem"),
        ("SSLV3_ALERT_CERTIFICATE_REVOKED", "which is revoked, it says"),
        ("TLSV1_ALERT_UNKNOWN_CA", "which is signed by an authority that it does not know"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "which is missing, it says: give --tls-certificate and --tls-key"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "no version of TLS in common"),
        ("WRONG_VERSION_NUMBER", "does not speak TLS on this port"),
        ("RECORD_LAYER_FAILURE", "TLS with the broker failed: record layer failure"),
    ],
)
def test_the_cause_of_a_failure_of_tls_is_named(reason: str, said: str) -> None:
    assert said in tell(ConnectionAttempt(error=alert(reason), ending="cannot be reached: x"))


def test_what_else_is_told() -> None:
    assert (
        tell(ConnectionAttempt(ending="refused the connection: Not authorized"))
        == "refused the connection: Not authorized"
    )
    assert tell(ConnectionAttempt(reached=True)) == "the connection was lost"
    reset = ConnectionResetError(104, "Connection reset by peer")
    assert tell(ConnectionAttempt(error=reset)) == "the connection was lost: Connection reset by peer"
    for said in (tell(ConnectionAttempt(taken_over=True)), tell(ConnectionAttempt(), suspected=True)):
        assert "client id fedkd:t:d); give each program its own" in said


def test_a_broker_that_hangs_up_before_it_speaks_may_not_like_the_certificate() -> None:
    """Its alert is lost when it closes the connection before it has read everything."""

    def told(certificate: Path | None, *, answered: bool) -> str:
        narrator = DisconnectExplainer(client_id="d", encrypted=True, certificate_file=certificate)
        return narrator.ending(ConnectionAttempt(reached=True, answered=answered), suspected=False)

    without_reason = "the broker ended the encrypted connection without a reason"
    assert told(Path("d.pem"), answered=False) == without_reason
    assert told(None, answered=False).startswith(f"{without_reason}; it may want a certificate: give --tls-certificate")
    assert told(None, answered=True) == "the connection was lost"
