"""One update at a time, until its receipt, again with backoff."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from device_client.uplink.resending import ResendSettings, ResendTimer, verdict
from wire_contract.messages import Receipt

SETTINGS = ResendSettings(receipt_timeout_seconds=30.0, backoff_first_seconds=1.0, backoff_max_seconds=8.0)


def widest(_low: float, high: float) -> float:
    return high


def make(uniform: Callable[[float, float], float] = widest) -> ResendTimer:
    return ResendTimer(SETTINGS, uniform=uniform)


def due_in(timer: ResendTimer, now: float) -> float | None:
    """Seconds until `is_due` may change by itself; None without a connection."""
    return max(0.0, timer._until - now) if timer._connected else None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"outcome": "merged"}, "done"),
        ({"outcome": "duplicate"}, "done"),
        ({"outcome": "refused", "reason": "too_stale"}, "done"),
        ({"outcome": "refused", "reason": "norm"}, "done"),
        ({"outcome": "refused", "reason": None}, "done"),
        ({"outcome": "refused", "reason": "of a newer aggregator"}, "done"),
        ({"outcome": "of a newer aggregator"}, "done"),
        ({"outcome": "of a newer aggregator", "reason": "rate"}, "done"),
        ({"outcome": "refused", "reason": "signature"}, "done"),
        ({"outcome": "refused", "reason": "unknown_base"}, "done"),
        ({"outcome": "refused", "reason": "not_finite"}, "done"),
        ({"outcome": "refused", "reason": "layout"}, "done"),
        ({"outcome": "refused", "reason": "too_large"}, "carry_over"),
        ({"outcome": "refused", "reason": "budget"}, "carry_over"),
        ({"outcome": "refused", "reason": "malformed"}, "carry_over"),
        ({"outcome": "refused", "reason": "rate"}, "later"),
    ],
)
def test_what_becomes_of_an_update_by_its_receipt(fields: dict[str, Any], expected: str) -> None:
    assert verdict(Receipt(version=1, **fields)) == expected


def test_nothing_is_sent_without_a_connection() -> None:
    timer = make()
    assert not timer.is_due(0.0)
    assert due_in(timer, 0.0) is None
    timer.connected(1.0, session_present=False)
    assert timer.is_due(1.0)
    timer.disconnected()
    assert not timer.is_due(1_000.0)


def test_one_at_a_time() -> None:
    timer = make()
    timer.connected(0.0, session_present=False)
    timer.sent(1, 0.0)
    assert not timer.is_due(29.9)
    timer.settled(1, 29.9)
    assert timer.is_due(29.9)


def test_without_a_receipt_it_is_due_again_after_the_timeout_and_a_growing_rest() -> None:
    timer = make()
    now = 0.0
    timer.connected(now, session_present=False)
    for rest in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert timer.is_due(now)
        timer.sent(1, now)
        now += 30.0
        assert not timer.is_due(now)
        assert due_in(timer, now) == rest
        assert not timer.is_due(now + rest - 0.01)
        now += rest
    timer.sent(1, now)
    timer.settled(1, now)
    timer.sent(2, now)
    assert not timer.is_due(now + 30.0)
    assert due_in(timer, now + 30.0) == 1.0, "the next update begins anew"


def test_the_rest_is_drawn_from_zero_to_the_widest() -> None:
    drawn = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    timer = make(uniform)
    timer.connected(0.0, session_present=False)
    timer.sent(1, 0.0)
    assert timer.is_due(30.0)
    timer.sent(1, 30.0)
    assert timer.is_due(60.0)
    assert drawn == [(0.0, 1.0), (0.0, 2.0)]


def test_a_broker_that_lost_the_session_lost_the_update_so_it_is_due_at_once() -> None:
    timer = make()
    timer.connected(0.0, session_present=False)
    timer.sent(1, 0.0)
    timer.disconnected()
    timer.connected(5.0, session_present=False)
    assert timer.is_due(5.0)


def test_a_kept_session_is_given_time_to_hand_over_the_receipt() -> None:
    timer = make()
    timer.connected(0.0, session_present=False)
    timer.sent(1, 0.0)
    timer.disconnected()
    assert not timer.is_due(9_000.0), "hours offline are no failures"
    timer.connected(9_000.0, session_present=True)
    assert not timer.is_due(9_029.9)
    assert not timer.is_due(9_030.0)
    assert due_in(timer, 9_030.0) == 1.0, "the first failure"


def test_a_rate_refusal_rests_and_sends_again() -> None:
    timer = make()
    timer.connected(0.0, session_present=False)
    timer.sent(1, 0.0)
    timer.deferred(1, 2.0)
    assert not timer.is_due(2.9)
    assert timer.is_due(3.0)
    timer.sent(1, 3.0)
    timer.deferred(1, 4.0)
    assert due_in(timer, 4.0) == 2.0


def test_a_receipt_of_another_update_changes_nothing_for_the_one_in_flight() -> None:
    timer = make()
    timer.connected(0.0, session_present=False)
    timer.sent(2, 0.0)
    timer.settled(1, 1.0)
    timer.deferred(1, 1.0)
    assert timer._waiting == 2
    assert not timer.is_due(29.0)


def test_a_link_that_takes_nothing_is_asked_again_later() -> None:
    timer = make()
    timer.connected(0.0, session_present=False)
    timer.not_accepted(0.0)
    assert not timer.is_due(0.5)
    assert timer.is_due(1.0)


class ResendTimerMachine(RuleBasedStateMachine):
    """Whatever happens: never two in flight, and never stuck while connected."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.is_connected = False
        self.timer = make()
        self.sequence = 1

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(session_present=st.booleans())
    def connect(self, session_present: bool) -> None:
        self.is_connected = True
        self.timer.connected(self.now, session_present=session_present)

    @rule()
    def disconnect(self) -> None:
        self.is_connected = False
        self.timer.disconnected()

    @rule()
    def send(self) -> None:
        if self.timer.is_due(self.now):
            assert self.is_connected
            self.timer.sent(self.sequence, self.now)

    @rule(later=st.booleans())
    def receipt(self, later: bool) -> None:
        if later:
            self.timer.deferred(self.sequence, self.now)
        else:
            self.timer.settled(self.sequence, self.now)
            self.sequence += 1

    @invariant()
    def it_is_due_again_in_bounded_time(self) -> None:
        rest = due_in(self.timer, self.now)
        assert (rest is not None) == self.is_connected
        if rest is not None:
            assert rest <= SETTINGS.receipt_timeout_seconds + SETTINGS.backoff_max_seconds


TestResendTimerMachine = ResendTimerMachine.TestCase
