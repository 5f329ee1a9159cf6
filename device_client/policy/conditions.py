"""When a device may upload, and when it may train: small predicates over what is known of the device.

A policy is data: the name of each predicate asked for, with its parameter. It evaluates to what is unmet, each with
one line for a person. What is not known counts as unmet, so that a broken sensor never spends a user's battery or
data plan; only a machine that has no battery is taken as charging.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any, Literal

PredicateName = Literal["charging", "unmetered", "battery", "quiet_hours", "approval"]
Conditions = Mapping[PredicateName, Any]
"""Predicate to parameter: True, a percentage, or quiet hours."""


@dataclass(frozen=True, kw_only=True)
class DeviceState:
    """What is known of a device now; None where nobody knows."""

    charging: bool | None
    unmetered: bool | None
    """The network costs nothing by the byte."""
    battery_percent: float | None
    local: datetime
    mains_powered: bool = False
    """There is no battery at all."""
    approval_missing: str | None = "no compliance approval is set"
    """Why the compliance approval does not hold; None when it does."""


@dataclass(frozen=True)
class QuietHours:
    """A daily stretch of local time, `start` included and `end` not; it may go over midnight."""

    start: time
    end: time

    def __contains__(self, moment: time) -> bool:
        if self.start < self.end:
            return self.start <= moment < self.end
        return moment >= self.start or moment < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


_QUIET_HOURS = re.compile(r"(\d\d:\d\d)-(\d\d:\d\d)")


def parse_quiet_hours(text: str) -> QuietHours:
    """`HH:MM-HH:MM`.

    Raises:
        ValueError: it is something else, or both ends are the same.
    """
    match = _QUIET_HOURS.fullmatch(text)
    try:
        start, end = (time.fromisoformat(part) for part in match.groups()) if match else (None, None)
    except ValueError:
        start, end = None, None
    if start is None or end is None or start == end:
        raise ValueError(f"quiet hours {text!r}: write HH:MM-HH:MM, two times of day that differ")
    return QuietHours(start, end)


def _charging(state: DeviceState, _: Any) -> str | None:
    if state.mains_powered or state.charging:
        return None
    return "not charging" if state.charging is False else "not known whether it is charging"


def _unmetered(state: DeviceState, _: Any) -> str | None:
    if state.unmetered:
        return None
    return "the network is metered" if state.unmetered is False else "not known whether the network is metered"


def _battery(state: DeviceState, percent_min: float) -> str | None:
    if state.mains_powered:
        return None
    if state.battery_percent is None:
        return f"battery level not known, at least {percent_min:g} % is needed"
    if state.battery_percent >= percent_min:  # false for the NaN of a broken sensor
        return None
    return f"battery at {state.battery_percent:g} %, at least {percent_min:g} % is needed"


def _quiet_hours(state: DeviceState, hours: QuietHours) -> str | None:
    return f"quiet hours {hours}" if state.local.time() in hours else None


def _approval(state: DeviceState, _: Any) -> str | None:
    return state.approval_missing


PREDICATES: Mapping[PredicateName, Callable[[DeviceState, Any], str | None]] = {
    "charging": _charging,
    "unmetered": _unmetered,
    "battery": _battery,
    "quiet_hours": _quiet_hours,
    "approval": _approval,
}
"""Each says why it is not met, or None when it is."""


def unmet(policy: Conditions, state: DeviceState) -> dict[PredicateName, str]:
    """The predicates that do not hold now, each with its reason; empty when the policy is met."""
    reasons = {name: PREDICATES[name](state, parameter) for name, parameter in policy.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}
