"""Only a signed-off, valid, readable approval of this task and device lets work go on; anything else says why not."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from device_client.policy.approval import ApprovalFile

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "task": "har",
    "approved_by": "Dr. A. Person",
    "approved_at": "2026-01-05T09:00:00+01:00",
    "expires_at": "2026-07-01T00:00:00+02:00",
}


def approval_in(folder: Path) -> ApprovalFile:
    return ApprovalFile(folder / "approval.json", task="har", device="watch-1")


def put(folder: Path, content: dict[str, Any] | str | bytes) -> None:
    """As an administrator should: replaced in one step."""
    data = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    (folder / "new").write_bytes(data)
    (folder / "new").replace(folder / "approval.json")


def without(*keys: str, **changed: Any) -> dict[str, Any]:
    return {key: value for key, value in {**GOOD, **changed}.items() if key not in keys}


@pytest.mark.parametrize("content", [GOOD, without(devices=["watch-2", "watch-1"]), without(signature="later")])
def test_a_good_approval_holds(tmp_path: Path, content: dict[str, Any]) -> None:
    put(tmp_path, content)
    assert approval_in(tmp_path).missing(NOW) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (without(task="physiotherapy"), "is for task physiotherapy, not har"),
        (without(devices=["watch-2"]), "does not name device watch-1"),
        (without(devices=[]), "does not name device watch-1"),
        (without(approved_by=""), "approved_by"),
        (without("approved_by"), "approved_by"),
        (without("expires_at"), "expires_at"),
        (without(expires_at="2026-07-01T00:00:00"), r"timezone.*expires_at"),
        (without(approved_at="2026-01-05T09:00:00"), r"timezone.*approved_at"),
        (without(approved_at="yesterday"), "approved_at"),
        (without(approved_at="2026-03-01T12:00:01+00:00"), "valid only from 2026-03-01T12:00:01"),
        ("{}", "task"),
        ('{"task": "har", "approved', "truncated"),
        ("[]", "Expected `object`"),
        (b"\xff\xfe", "approval"),
        ("", "truncated"),
        (" " * 100_000, "larger than 65536 bytes"),
    ],
)
def test_anything_else_says_why_in_one_line(tmp_path: Path, content: dict[str, Any] | str | bytes, said: str) -> None:
    put(tmp_path, content)
    reason = approval_in(tmp_path).missing(NOW)
    assert reason is not None
    assert "\n" not in reason
    assert re.search(said, reason), reason


def test_it_expires_to_the_second_wherever_the_device_is(tmp_path: Path) -> None:
    put(tmp_path, GOOD)
    approval = approval_in(tmp_path)
    end = datetime(2026, 6, 30, 22, 0, tzinfo=UTC)
    assert approval.missing(end - timedelta(seconds=1)) is None
    for hours in (-8, 0, 12):
        reason = approval.missing(end.astimezone(timezone(timedelta(hours=hours))))
        assert reason is not None
        assert "expired at 2026-07-01T00:00:00+02:00" in reason


def test_it_is_read_again_when_it_changes(tmp_path: Path) -> None:
    approval = approval_in(tmp_path)
    assert "No such file" in (approval.missing(NOW) or "")
    put(tmp_path, GOOD)
    assert approval.missing(NOW) is None
    put(tmp_path, without(expires_at="2026-02-01T00:00:00+02:00"))
    assert "expired" in (approval.missing(NOW) or "")
    put(tmp_path, GOOD)
    assert approval.missing(NOW) is None
    (tmp_path / "approval.json").unlink()
    assert "No such file" in (approval.missing(NOW) or "")


def test_a_folder_is_no_approval(tmp_path: Path) -> None:
    (tmp_path / "approval.json").mkdir()
    assert "Is a directory" in (approval_in(tmp_path).missing(NOW) or "")
