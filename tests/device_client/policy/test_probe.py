"""What is known of the device: from the system, or from a simulator's file, which may be missing or half written."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from device_client.policy.conditions import DeviceState
from device_client.policy.probe import SimulatedProbe, SystemProbe

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Battery(NamedTuple):
    """As psutil tells it."""

    percent: float
    power_plugged: bool | None


@pytest.mark.parametrize("plugged", [True, False, None])
def test_a_battery_is_read(plugged: bool | None) -> None:
    state = SystemProbe(unmetered=False, battery=lambda: Battery(55, plugged)).read(NOON)
    assert (state.charging, state.battery_percent, state.mains_powered) == (plugged, 55.0, False)
    assert (state.unmetered, state.local) == (False, NOON)


def test_a_machine_without_a_battery_is_on_mains_power() -> None:
    state = SystemProbe(unmetered=None, battery=lambda: None).read(NOON)
    assert (state.mains_powered, state.charging, state.battery_percent, state.unmetered) == (True, None, None, None)


@pytest.mark.parametrize("error", [OSError("driver"), NotImplementedError(), ValueError("nonsense")])
def test_what_cannot_be_read_is_not_known_and_not_mains_power(error: Exception) -> None:
    def broken() -> Any:
        raise error

    state = SystemProbe(unmetered=True, battery=broken).read(NOON)
    assert (state.charging, state.battery_percent, state.mains_powered) == (None, None, False)


def test_this_machine_can_be_read() -> None:
    assert isinstance(SystemProbe(unmetered=None).read(NOON), DeviceState)


def test_the_approval_is_asked_at_the_same_moment() -> None:
    asked: list[datetime] = []
    probe = SystemProbe(unmetered=None, approve=asked.append)
    assert probe.read(NOON).approval_missing is None
    assert asked == [NOON]
    assert SystemProbe(unmetered=None).read(NOON).approval_missing is not None


def put(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(fields), encoding="utf-8")


def test_a_simulator_says_how_the_device_is(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    probe = SimulatedProbe(file)
    put(file, charging=True, unmetered=False, battery_percent=80, local_time="23:15")
    state = probe.read(NOON)
    assert (state.charging, state.unmetered, state.battery_percent) == (True, False, 80.0)
    assert state.local == NOON.replace(hour=23, minute=15)
    put(file, mains_powered=True)
    state = probe.read(NOON)
    assert (state.charging, state.mains_powered, state.local) == (None, True, NOON)


def test_nothing_is_known_before_the_first_file(tmp_path: Path) -> None:
    state = SimulatedProbe(tmp_path / "state.json").read(NOON)
    assert (state.charging, state.unmetered, state.battery_percent, state.mains_powered) == (None, None, None, False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"charging": fal',
        b'{"charging": "no"}',
        b'{"chargin": false}',
        b'{"battery_percent": 101}',
        b'{"local_time": "25:00"}',
        b"\xff",
    ],
)
def test_what_is_broken_leaves_the_last_state(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "state.json"
    probe = SimulatedProbe(file)
    put(file, charging=True, battery_percent=30, local_time="07:00")
    before = probe.read(NOON)
    file.write_bytes(content)
    assert probe.read(NOON) == before
    file.unlink()
    assert probe.read(NOON) == before
