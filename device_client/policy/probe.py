"""Reads the state of the device. Power comes from the system; whether the network is metered, only its owner knows."""

import contextlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import psutil

from device_client.policy.conditions import DeviceState

Approve = Callable[[datetime], str | None]
"""Why there is no compliance approval at that time; None: there is one."""


def never_approved(_: datetime) -> str | None:
    """For devices without an approval file."""
    return "no compliance approval is set (--approval)"


class Probe(Protocol):
    """Reads the state of one device."""

    def read(self, local: datetime) -> DeviceState:
        """The state at `local` (with zone). What cannot be read is None."""


def _battery() -> Any:
    if not hasattr(psutil, "sensors_battery"):  # psutil supports it on some systems only
        raise NotImplementedError
    return psutil.sensors_battery()


class SystemProbe:
    """This machine."""

    def __init__(
        self, *, unmetered: bool | None, approve: Approve = never_approved, battery: Callable[[], Any] = _battery
    ) -> None:
        self._unmetered = unmetered
        self._approve = approve
        self._battery = battery

    def read(self, local: datetime) -> DeviceState:
        found, mains_powered = None, False
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # NotImplementedError is a RuntimeError
            found = self._battery()
            mains_powered = found is None  # no battery: a gateway, a server, a board
        return DeviceState(
            charging=None if found is None else found.power_plugged,
            unmetered=self._unmetered,
            battery_percent=None if found is None else float(found.percent),
            mains_powered=mains_powered,
            local=local,
            approval_missing=self._approve(local),
        )


class _Simulated(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    charging: bool | None = None
    unmetered: bool | None = None
    battery_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    mains_powered: bool = False
    local_time: Annotated[str, msgspec.Meta(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")] | None = None
    """HH:MM; None: the real time."""


class SimulatedProbe:
    """Reads a state that a simulator writes to a file as JSON, preferably with an atomic replace.

    {"charging": true, "unmetered": false, "battery_percent": 55, "mains_powered": false, "local_time": "23:15"}

    Every field is optional (not known; the real time). If the file is missing or half written, the last state that was
    read stays valid; before the first one, nothing is known.
    """

    def __init__(self, path: Path, *, approve: Approve = never_approved) -> None:
        self._path = path
        self._approve = approve
        self._last = _Simulated()

    def read(self, local: datetime) -> DeviceState:
        with contextlib.suppress(OSError, ValueError):  # msgspec's errors are ValueErrors
            self._last = msgspec.json.decode(self._path.read_bytes(), type=_Simulated)
        state, moment = self._last, local
        if state.local_time is not None:
            hour, minute = state.local_time.split(":")
            moment = local.replace(hour=int(hour), minute=int(minute))
        return DeviceState(
            charging=state.charging,
            unmetered=state.unmetered,
            battery_percent=state.battery_percent,
            mains_powered=state.mains_powered,
            local=moment,
            # The approval expires by the real clock: only the time of day is simulated, not the date.
            approval_missing=self._approve(local),
        )
