"""One lock for the whole project, and no program that needs Unix to start."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wire_contract.files.file_lock import FileLock, FileLocked

HOUSE = Path(__file__).parents[3]

PROGRAMS = (
    "aggregator.__main__, aggregator.enrolment.commands, aggregator.ledger.ledger, device_client.__main__, "
    "device_client.commands.run, device_client.uplink.outbox, simulators.__main__, simulators.demo.command, "
    "simulators.processes.fork_server, benchmarks.__main__"
)
WITHOUT_UNIX = f"""
import os, signal, sys
import {PROGRAMS}

# The libraries are those of this machine. Our own modules are imported again, and find nothing of Unix.
OURS = ("aggregator", "device_client", "wire_contract", "simulators", "benchmarks")
for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
    del sys.modules[name]
for name in ("fcntl", "pwd", "grp", "resource", "termios", "pty", "tty"):
    sys.modules[name] = None
for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY", "fork", "geteuid", "getegid", "fchmod", "chown", "pidfd_open"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM"):
    delattr(signal, name)


class msvcrt:
    LK_NBLCK = 2
    held = set()

    @staticmethod
    def locking(descriptor, mode, count):
        assert (mode, count) == (msvcrt.LK_NBLCK, 1)
        assert os.lseek(descriptor, 0, os.SEEK_CUR) >= 1 << 30, "nobody else can read what is locked"
        file = os.fstat(descriptor)[1:3]
        if file in msvcrt.held:
            raise PermissionError(13, "Permission denied")
        msvcrt.held.add(file)


sys.modules["msvcrt"] = msvcrt
sys.platform = "win32"
import {PROGRAMS}
from pathlib import Path
"""


def test_a_second_holder_is_told_who_is_first(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = FileLock(path)
    with pytest.raises(FileLocked) as caught:
        FileLock(path)
    assert caught.value.holder == str(os.getpid())
    first.release()
    first.release()
    FileLock(path).release()


def test_it_excludes_whoever_holds_the_same_file_by_flock(tmp_path: Path) -> None:
    """As earlier versions of the programs do."""
    path = tmp_path / "lock"
    with path.open("a+") as older:
        fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(FileLocked) as caught:
            FileLock(path)
    assert caught.value.holder == "unknown"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_not_taken_for_another_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_descriptor: int, _how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="local disk") as caught:
        FileLock(tmp_path / "lock")
    assert caught.value.errno == number


def test_a_full_disk_does_not_keep_a_program_from_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    lock = FileLock(tmp_path / "lock")
    with pytest.raises(FileLocked):
        FileLock(tmp_path / "lock")
    lock.release()


def test_without_unix_every_program_is_imported_and_its_files_are_locked(tmp_path: Path) -> None:
    """What a device or a gateway with Windows needs first. On a real Windows nothing of this was tried."""
    code = """
from aggregator.ledger.ledger import Ledger
from device_client.uplink.outbox import Outbox
from device_client.uplink.outbox_errors import OutboxInUse

def opened():
    return Outbox(Path(sys.argv[1]) / "state" / "outbox.sqlite", task="walking", device="watch-1")

with opened() as outbox:
    print(outbox.next_identity.sequence)
    try:
        opened()
    except OutboxInUse:
        print("in use")
    print((Path(sys.argv[1]) / "state" / "outbox.sqlite.lock").read_text() == str(os.getpid()))
with Ledger(Path(sys.argv[1]) / "ledger.sqlite", task="walking"):
    print("ledger")
"""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNIX + code, str(tmp_path)],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\nin use\nTrue\nledger\n"


def test_no_other_module_locks_files() -> None:
    found = [
        path.relative_to(HOUSE).as_posix()
        for package in ("wire_contract", "aggregator", "device_client", "simulators", "benchmarks")
        for path in (HOUSE / package).rglob("*.py")
        if "import fcntl" in path.read_text() or "O_CLOEXEC" in path.read_text()
    ]
    assert found == ["wire_contract/files/file_lock.py"]
