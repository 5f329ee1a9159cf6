"""When a device may upload, and when it may train: conditions on the state of the device.

The conditions are data: the name of each required predicate, with its parameter. Evaluating them gives those
that are not met, each with a one-line explanation. Unknown state counts as not met, so that a broken sensor never costs
a user's battery or data plan; only a machine without a battery counts as charging.
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
    """The state of a device; None: not known."""

    charging: bool | None
    unmetered: bool | None
    """Whether data over the network is free of charge."""
    battery_percent: float | None
    local: datetime
    mains_powered: bool = False
    """The machine has no battery."""
    approval_missing: str | None = "no compliance approval is set"
    """Why there is no valid compliance approval; None: there is one."""


@dataclass(frozen=True)
class QuietHours:
    """A daily period of local time, including `start` and excluding `end`; it may span midnight."""

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
        ValueError: it has another form, or both times are the same.
    """
    match = _QUIET_HOURS.fullmatch(text)
    try:
        start, end = (time.fromisoformat(part) for part in match.groups()) if match else (None, None)
    except ValueError:
        start, end = None, None
    if start is None or end is None or start == end:
        raise ValueError(f"quiet hours {text!r}: write HH:MM-HH:MM, with two different times of day")
    return QuietHours(start, end)


def _charging(state: DeviceState, _: Any) -> str | None:
    if state.mains_powered or state.charging:
        return None
    return "not charging" if state.charging is False else "charging state is not known"


def _unmetered(state: DeviceState, _: Any) -> str | None:
    if state.unmetered:
        return None
    return "the network is metered" if state.unmetered is False else "whether the network is metered is not known"


def _battery(state: DeviceState, percent_min: float) -> str | None:
    if state.mains_powered:
        return None
    if state.battery_percent is None:
        return f"battery level is not known, at least {percent_min:g} % is required"
    if state.battery_percent >= percent_min:  # also false for the NaN of a broken sensor
        return None
    return f"battery at {state.battery_percent:g} %, at least {percent_min:g} % is required"


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
"""Each returns why it is not met, or None if it is."""


def unmet(policy: Conditions, state: DeviceState) -> dict[PredicateName, str]:
    """The conditions that are not met, each with its reason; empty: all are met."""
    reasons = {name: PREDICATES[name](state, parameter) for name, parameter in policy.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}
