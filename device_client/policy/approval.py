"""Where an approval is read: a file that names the task, who approved it, and when it expires.

    {"task": "physiotherapy", "approved_by": "Dr. A. Person", "approved_at": "2026-11-01T09:00:00+01:00",
     "expires_at": "2027-05-01T00:00:00+02:00", "devices": ["watch-1", "watch-2"]}

Times have a time zone. Without `devices` it is valid for every device. Refused: another task or device, times without a
time zone, not yet approved, expired, a missing or empty name, anything unreadable. The file is read again when it
changes, so an approval can be given or withdrawn without a restart.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

_FILE_BYTES_MAX = 64 * 1024
"""Enough for an approval that names thousands of devices."""

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file."""

    task: _Text
    approved_by: _Text
    approved_at: _Moment
    expires_at: _Moment
    devices: tuple[str, ...] | None = None
    """None: every device."""


def why_not(approval: Approval, *, task: str, device: str, now: datetime) -> str | None:
    """Why `approval` does not cover `device` and `task` at `now` (with time zone); None: it does."""
    if approval.task != task:
        return f"the compliance approval is for task {approval.task}, not {task}"
    if approval.devices is not None and device not in approval.devices:
        return f"the compliance approval does not name device {device}"
    if now < approval.approved_at:
        return f"the compliance approval is valid only from {approval.approved_at.isoformat()}"
    if now >= approval.expires_at:
        return f"the compliance approval expired at {approval.expires_at.isoformat()}"
    return None


class ApprovalFile:
    """The approval in a file, read again whenever the file changes."""

    def __init__(self, path: Path, *, task: str, device: str) -> None:
        self._path = path
        self._task = task
        self._device = device
        self._seen: tuple[int, int, int] | None = None
        self._content: Approval | str = ""

    def missing(self, now: datetime) -> str | None:
        """Why there is no valid approval at `now` (with time zone), in one line; None: there is one."""
        try:
            status = self._path.stat()
        except OSError as error:
            self._seen = None
            return f"compliance approval {self._path}: {error.strerror}"
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen != self._seen:
            self._content, self._seen = self._read(), seen
        if isinstance(self._content, str):
            return self._content
        return why_not(self._content, task=self._task, device=self._device, now=now)

    def _read(self) -> Approval | str:
        """The approval, or why it cannot be read."""
        try:
            with self._path.open("rb") as file:
                content = file.read(_FILE_BYTES_MAX + 1)
        except OSError as error:
            return f"compliance approval {self._path}: {error.strerror}"
        if len(content) > _FILE_BYTES_MAX:
            return f"compliance approval {self._path}: larger than {_FILE_BYTES_MAX} bytes"
        try:
            return msgspec.json.decode(content, type=Approval)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return f"compliance approval {self._path}: {error}"
