"""How others see whether a program works: a heartbeat file, and the watchdog of systemd.

A running program calls its `Heartbeat` from its main loop. At most every BEAT_SECONDS, and at once after a change, this
writes a small file that says when the loop last ran and what prevents the program from working. The file of a stopped
(SIGSTOP), hung or killed program grows old; a program without a broker keeps writing it, and says so in it.

The file has a fixed size and is overwritten in place, which needs no free space: the heartbeat file of a program that
waits for a full disk is often on that disk. A reader that hits the middle of a write reads again.

    live    the loop ran within the last AGE_SECONDS_MAX
    ready   it is live, and nothing prevents it from working

Times are those of the monotonic clock, which all processes of a machine share and which is never set. After a reboot an
old file seems to be from the future, which counts as old.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from wire_contract.errors import ContractError
from wire_contract.files.output_files import check_output_file

BEAT_SECONDS = 5.0
"""Chosen: far below the shortest interval of compose.yaml's checks (30 s) and systemd's watchdog (120 s); each
iteration would wear flash memory."""
AGE_SECONDS_MAX = 120.0
"""Default: longer than any iteration of a main loop, except the evaluation of a large held-out set."""

FILE_BYTES = 2_048
"""Size of the file, padded with spaces."""
_TROUBLE_CHARACTERS_MAX = 300
"""Each takes at most 6 bytes in JSON, so that the content always fits into the file."""
_READ_AGAIN_SECONDS = 0.05
"""Chosen, not measured: a write of 2 KiB takes far less."""


class NotHealthy(ContractError):
    """The program is not live or not ready; the text says why."""


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file, as JSON."""

    program: str
    pid: int
    at: float
    """Monotonic seconds at which the main loop last ran."""
    trouble: str = ""
    """What prevents the program from working, one line; empty: nothing."""


class Heartbeat(Protocol):
    """Called by the main loop, as often as it wants."""

    def __call__(self, *, trouble: str = "") -> None: ...


def no_heartbeat(*, trouble: str = "") -> None:
    """The heartbeat of a program that is not monitored."""
    _ = trouble


@dataclass
class _Written:
    at: float
    trouble: str


class HeartbeatFile:
    """Writes the file and notifies systemd. If a write fails, the heartbeat is missed and nothing else happens."""

    def __init__(
        self,
        path: Path | None,
        *,
        program: str,
        monotonic: Callable[[], float],
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`path` None: no file, only `notify` (see `systemd_notifier`).

        Raises:
            FileUnusable: `path` cannot be written, or is a file of another kind.
        """
        if path is not None:
            check_output_file(path, flag="--health-file", is_ours=_is_beat)
        self._path = path
        self._program = program
        self._monotonic = monotonic
        self._notify = notify
        self._written: _Written | None = None

    def __call__(self, *, trouble: str = "") -> None:
        """The loop ran; `trouble` says what prevents the program from working."""
        now, written = self._monotonic(), self._written
        if written is not None and written.trouble == trouble and 0 <= now - written.at < BEAT_SECONDS:
            return
        ready = "READY=1\n" if written is None else ""
        self._written = _Written(now, trouble)
        self._notify(f"{ready}WATCHDOG=1\nSTATUS={trouble or 'working'}")
        if self._path is not None:
            shown = trouble[:_TROUBLE_CHARACTERS_MAX]
            self._write(self._path, Beat(program=self._program, pid=os.getpid(), at=now, trouble=shown))

    def close(self) -> None:
        """The program ends normally: removes the file, so that nothing looks alive."""
        self._notify("STOPPING=1")
        if self._path is not None and self._written is not None:  # else it may be the file of another process
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    @staticmethod
    def _write(path: Path, beat: Beat) -> None:
        content = msgspec.json.encode(beat).ljust(FILE_BYTES - 1) + b"\n"
        with contextlib.suppress(OSError), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), "wb", 0) as file:
            file.write(content)


def _is_beat(content: bytes) -> bool:
    try:
        msgspec.json.decode(content, type=Beat)
    except msgspec.MsgspecError:
        return False
    return True


def heartbeat(program: str, path: Path | None) -> HeartbeatFile:
    """The heartbeat of this process, with the system's clock and systemd.

    Raises:
        FileUnusable: `path` cannot be written, or is a file of another kind.
    """
    return HeartbeatFile(path, program=program, monotonic=time.monotonic, notify=systemd_notifier(os.environ))


def check(path: Path, *, now: float, age_seconds_max: float, ready: bool) -> Beat:
    """Reads the last heartbeat of a program; it must be live, and ready if that is requested.

    Args:
        path: of the heartbeat file.
        now: monotonic seconds.
        age_seconds_max: how long ago the loop may have run.
        ready: whether the program must also be ready.

    Raises:
        NotHealthy: it is not.
    """
    try:
        content = path.read_bytes()
        if not _is_beat(content):  # perhaps in the middle of a write
            time.sleep(_READ_AGAIN_SECONDS)
            content = path.read_bytes()
        if not content:
            raise NotHealthy(f"no heartbeat: {path} is empty; the program is still starting, or the disk is full")
        beat = msgspec.json.decode(content, type=Beat)
    except FileNotFoundError:
        raise NotHealthy(
            f"no heartbeat: {path} does not exist; the program is not running, or still starting"
        ) from None
    except OSError as error:
        raise NotHealthy(f"no heartbeat: {path}: {error.strerror}") from None
    except msgspec.MsgspecError:
        raise NotHealthy(f"no heartbeat: {path} is not the heartbeat file of a program") from None
    age = now - beat.at
    if age < 0:
        raise NotHealthy(f"{beat.program} is not running: its last heartbeat was before this machine started")
    if age > age_seconds_max:
        raise NotHealthy(
            f"{beat.program} (process {beat.pid}) does not respond: its last heartbeat was {age:.0f} s ago"
        )
    if ready and beat.trouble:
        raise NotHealthy(f"{beat.program} runs, but: {beat.trouble}")
    return beat


def systemd_notifier(environment: Mapping[str, str]) -> Callable[[str], None]:
    """Sends states to systemd if the unit has `Type=notify` (see sd_notify(3)), else does nothing."""
    address = environment.get("NOTIFY_SOCKET", "")
    if address[:1] not in {"/", "@"}:
        return lambda _: None
    address = address.replace("@", "\0", 1) if address.startswith("@") else address

    def notify(state: str) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(address)
            sender.sendall(state.encode())

    return notify
