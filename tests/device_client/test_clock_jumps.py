"""A clock that was a year ahead, or behind, and is set right: nothing a device decides stays wrong."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from device_client.downlink.model_trust import ModelTrust, VolatileTrustMemory
from device_client.policy.approval import ApprovalFile
from device_client.policy.conditions import DeviceState, parse_quiet_hours, unmet
from device_client.uplink.rounds import LocalStudent, next_round
from tests.device_client.stage import LAYOUT, TASK, Stage, model
from tests.wire_contract.keys import key
from wire_contract.signatures.signing import NotTrusted, sign

YEAR_SECONDS = 365 * 86_400.0
NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
HOUSE = Path(__file__).parents[2]


@pytest.mark.parametrize("jump_days", [-365, 365])
def test_an_approval_holds_again_as_soon_as_the_clock_is_right(tmp_path: Path, jump_days: int) -> None:
    path = tmp_path / "approval.json"
    granted = {
        "task": "har",
        "approved_by": "Dr. A. Person",
        "approved_at": (NOW - timedelta(days=30)).isoformat(),
        "expires_at": (NOW + timedelta(days=30)).isoformat(),
    }
    path.write_text(json.dumps(granted))
    approval = ApprovalFile(path, task="har", device="watch-1")
    assert approval.missing(NOW) is None
    assert approval.missing(NOW + timedelta(days=jump_days)) is not None, "a wrong clock grants nothing"
    assert approval.missing(NOW) is None


@pytest.mark.parametrize("jump_seconds", [-YEAR_SECONDS, YEAR_SECONDS])
def test_a_manifest_is_believed_again_as_soon_as_the_clock_is_right(jump_seconds: float) -> None:
    clock = [NOW.timestamp()]
    trust = ModelTrust([key(1).public], task=TASK, memory=VolatileTrustMemory(), unix=lambda: clock[0])
    announcement = model(3).manifest
    payload = sign(type(announcement)(**{**_fields(announcement), "expires_at": clock[0] + 3_600}), [key(1)])
    assert trust.read(payload).version == 3
    clock[0] += jump_seconds
    if jump_seconds > 0:
        with pytest.raises(NotTrusted, match="clock right"):
            trust.read(payload)
    else:
        assert trust.read(payload).version == 3
    clock[0] -= jump_seconds
    assert trust.read(payload).version == 3


def _fields(message: object) -> dict[str, object]:
    return {name: getattr(message, name) for name in message.__struct_fields__}  # type: ignore[attr-defined]


@pytest.mark.parametrize("jump_seconds", [-YEAR_SECONDS, YEAR_SECONDS])
def test_a_further_round_is_never_waited_for_longer_than_its_rest(jump_seconds: float) -> None:
    now = NOW.timestamp()
    published = model(3).published
    line = LocalStudent(3, published.digest, 1, published.weights, finished_at=now + jump_seconds)
    assert next_round(published, line, now=now, rounds_max=4, retrain_after_seconds=60.0) is not None
    assert published.layout == LAYOUT


@pytest.mark.parametrize("jump_seconds", [-YEAR_SECONDS, YEAR_SECONDS])
def test_a_device_works_on_whatever_its_wall_clock_does(tmp_path: Path, jump_seconds: float) -> None:
    """Waiting is by the monotonic clock."""
    stage = Stage(tmp_path, retrain_after_seconds=1.0)
    stage.aggregator.publish(model(0))
    unix = [0.0]
    clock = stage.time.clock
    stage.clock = type(clock)(clock.monotonic, lambda: stage.time.now + unix[0], clock.local)

    def jump() -> None:
        unix[0] = jump_seconds if len(stage.aggregator.merged) in {1, 3} else 0.0

    began, stage.at_turn = stage.time.now, jump
    stage.run(lambda: len(stage.aggregator.merged) == 4)
    assert stage.time.now - began < 60.0


def state_at(local: datetime) -> DeviceState:
    return DeviceState(charging=None, unmetered=None, battery_percent=None, local=local)


def test_quiet_hours_are_of_the_wall_time_of_each_look() -> None:
    policy = {"quiet_hours": parse_quiet_hours("22:00-06:00")}
    assert unmet(policy, state_at(NOW.replace(hour=23))) != {}  # type: ignore[arg-type]
    assert unmet(policy, state_at(NOW.replace(hour=12) - timedelta(days=365))) == {}  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells the zone anew each time")
def test_a_zone_that_is_changed_while_the_program_runs_is_seen() -> None:
    code = """
import os
from wire_contract.program.clock import SYSTEM_CLOCK
for zone in ("Etc/GMT+5", "Etc/GMT-9", "Europe/Berlin"):
    os.environ["TZ"] = zone
    print(SYSTEM_CLOCK.local().strftime("%z"))
"""
    environment = {"TZ": "UTC", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HOUSE, env=environment, capture_output=True, text=True, check=True
    )
    first, second, third = done.stdout.split()
    assert (first, second) == ("-0500", "+0900")
    assert third in {"+0100", "+0200"}
