"""A policy says in one line a reason why something has to wait; what is not known counts as unmet."""

from datetime import UTC, datetime, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.policy.conditions import Conditions, DeviceState, QuietHours, parse_quiet_hours, unmet

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY_MINUTES = 24 * 60
minutes = st.integers(0, DAY_MINUTES - 1)


def state(
    *,
    charging: bool | None = None,
    unmetered: bool | None = None,
    battery_percent: float | None = None,
    mains_powered: bool = False,
    local: datetime = NOON,
    approval_missing: str | None = "none is set",
) -> DeviceState:
    return DeviceState(
        charging=charging,
        unmetered=unmetered,
        battery_percent=battery_percent,
        mains_powered=mains_powered,
        local=local,
        approval_missing=approval_missing,
    )


def clock(minute: int) -> time:
    return time(minute // 60, minute % 60)


@given(start=minutes, end=minutes, now=minutes, second=st.integers(0, 59))
def test_quiet_hours_are_so_many_minutes_from_their_start_on(start: int, end: int, now: int, second: int) -> None:
    text = f"{clock(start):%H:%M}-{clock(end):%H:%M}"
    if start == end:
        with pytest.raises(ValueError, match="differ"):
            parse_quiet_hours(text)
        return
    hours = parse_quiet_hours(text)
    assert str(hours) == text
    since_start, long = (now - start) % DAY_MINUTES, (end - start) % DAY_MINUTES
    assert (clock(now).replace(second=second) in hours) == (since_start < long)


@given(start=minutes, end=minutes, now=minutes)
def test_the_hours_that_are_not_quiet_are_the_other_ones(start: int, end: int, now: int) -> None:
    if start != end:
        assert (clock(now) in QuietHours(clock(start), clock(end))) != (
            clock(now) in QuietHours(clock(end), clock(start))
        )


@pytest.mark.parametrize(
    "text", ["", "22:00", "22:00-", "22-06", "24:00-06:00", "22:60-06:00", "9:00-10:00", "22:00-06:00x"]
)
def test_other_texts_are_no_quiet_hours(text: str) -> None:
    with pytest.raises(ValueError, match="HH:MM-HH:MM"):
        parse_quiet_hours(text)


NIGHT = parse_quiet_hours("22:00-06:30")
MIDNIGHT = NOON.replace(hour=0)


@pytest.mark.parametrize(
    ("policy", "met", "not_met", "said"),
    [
        ({"charging": True}, state(charging=True), state(charging=False), "not charging"),
        ({"charging": True}, state(mains_powered=True), state(), "charging state is not known"),
        ({"unmetered": True}, state(unmetered=True), state(unmetered=False), "is metered"),
        ({"unmetered": True}, state(unmetered=True), state(), "whether the network is metered is not known"),
        ({"battery": 40}, state(battery_percent=40), state(battery_percent=39.5), "39.5 %, at least 40 %"),
        ({"battery": 40}, state(mains_powered=True), state(), "not known, at least 40 %"),
        ({"battery": 0}, state(battery_percent=0), state(battery_percent=float("nan")), "at least 0 %"),
        ({"quiet_hours": NIGHT}, state(local=NOON), state(local=MIDNIGHT), "quiet hours 22:00-06:30"),
        ({"approval": True}, state(approval_missing=None), state(approval_missing="it expired"), "it expired"),
    ],
)
def test_each_predicate(policy: Conditions, met: DeviceState, not_met: DeviceState, said: str) -> None:
    assert unmet(policy, met) == {}
    reasons = unmet(policy, not_met)
    assert list(reasons) == list(policy)
    (reason,) = reasons.values()
    assert said in reason
    assert "\n" not in reason


def test_nothing_asked_for_is_always_met() -> None:
    assert unmet({}, state()) == {}


def test_every_reason_is_told_not_only_the_first() -> None:
    policy: Conditions = {"charging": True, "unmetered": True, "battery": 50, "quiet_hours": NIGHT, "approval": True}
    assert list(unmet(policy, state(local=MIDNIGHT))) == list(policy)
