"""A program is live while its loop moves, and ready while nothing keeps it from its work."""

import socket
from pathlib import Path

import pytest

from wire_contract.errors import FileUnusable
from wire_contract.program.health import BEAT_SECONDS, FILE_BYTES, HeartbeatFile, NotHealthy, check, systemd_notifier


class Watched:
    """A program with a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "health.json"
        self.now = 1_000.0
        self.notified: list[str] = []
        self.beat = HeartbeatFile(
            self.path, program="aggregator", monotonic=lambda: self.now, notify=self.notified.append
        )

    def check(self, *, ready: bool = True) -> str:
        """What is wrong; empty: nothing."""
        try:
            check(self.path, now=self.now, age_seconds_max=60.0, ready=ready)
        except NotHealthy as error:
            return str(error)
        return ""


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_loop_that_no_longer_moves_is_not_live(watched: Watched) -> None:
    assert "does not exist" in watched.check()
    watched.beat()
    assert watched.check() == ""
    watched.now += 60.0
    assert watched.check() == ""
    watched.now += 1.0
    assert "does not respond: its last heartbeat was 61 s ago" in watched.check(ready=False)
    watched.beat()
    assert watched.check() == ""


def test_a_program_without_its_broker_is_live_and_not_ready(watched: Watched) -> None:
    watched.beat(trouble="no connection to the broker: refused")
    assert watched.check(ready=False) == ""
    assert watched.check() == "aggregator runs, but: no connection to the broker: refused"
    watched.beat()
    assert watched.check() == "", "a change is written at once"


def test_it_writes_seldom(watched: Watched) -> None:
    watched.beat()
    first = watched.path.read_bytes()
    watched.now += BEAT_SECONDS - 0.1
    watched.beat()
    assert watched.path.read_bytes() == first
    watched.now += 0.2
    watched.beat()
    assert watched.path.read_bytes() != first
    assert len(watched.notified) == 2


def test_a_file_from_before_a_reboot_is_no_life(watched: Watched) -> None:
    watched.beat()
    watched.now = 3.0
    assert "before this machine started" in watched.check(ready=False)
    watched.beat()
    assert watched.check() == ""


def test_an_orderly_end_leaves_no_file(watched: Watched) -> None:
    watched.beat()
    watched.beat.close()
    assert "does not exist" in watched.check()
    assert watched.notified[-1] == "STOPPING=1"


@pytest.mark.parametrize("content", [b"nonsense", b'{"program": 1}', b"[]"])
def test_another_file_is_named(watched: Watched, content: bytes) -> None:
    watched.path.write_bytes(content)
    assert "not the heartbeat file" in watched.check()


def test_an_empty_file_may_be_a_full_disk(watched: Watched) -> None:
    watched.path.write_bytes(b"")
    assert "the disk is full" in watched.check()
    watched.beat()
    assert watched.check() == ""


def test_a_beat_needs_no_more_space_than_the_first_one(watched: Watched) -> None:
    watched.beat()
    first = watched.path.stat()
    for trouble in ("disk full", "\N{SNOWMAN}" * 10_000, "\x00" * 10_000, ""):
        watched.now += 1.0
        watched.beat(trouble=trouble)
        assert trouble[:100] in watched.check()
        now = watched.path.stat()
        assert (now.st_ino, now.st_size) == (first.st_ino, FILE_BYTES)
        assert list(watched.path.parent.iterdir()) == [watched.path], "nothing beside it either"


def test_who_reads_in_the_middle_of_a_write_reads_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.beat()
    whole = watched.path.read_bytes()
    watched.path.write_bytes(whole[:20])
    monkeypatch.setattr("wire_contract.program.health.time.sleep", lambda _: watched.path.write_bytes(whole))
    assert watched.check() == ""


def test_a_removed_file_comes_back(watched: Watched) -> None:
    watched.beat()
    watched.path.unlink()
    watched.beat(trouble="x")
    assert "x" in watched.check()


def test_a_disk_that_refuses_does_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    beat = HeartbeatFile(folder / "health.json", program="x", monotonic=lambda: 0.0)
    folder.rmdir()
    beat()
    beat.close()


@pytest.mark.parametrize("content", [b"SQLite format 3\0 and much more", b"4711", b"{}"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path, link = tmp_path / "ledger.sqlite3", tmp_path / "link"
    path.write_bytes(content)
    link.symlink_to(path)
    for named in (path, link):
        with pytest.raises(FileUnusable, match=f"--health-file {named} is another kind of file"):
            HeartbeatFile(named, program="x", monotonic=lambda: 0.0)
    assert path.read_bytes() == content


def test_a_path_that_cannot_be_a_file_is_one_line_at_the_start(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "is a folder"), (tmp_path / "a" / "b", "no folder"), (Path("/dev/null"), "regular")):
        with pytest.raises(FileUnusable, match=said):
            HeartbeatFile(path, program="x", monotonic=lambda: 0.0)


def test_the_file_of_a_program_that_was_killed_is_taken_over(watched: Watched) -> None:
    watched.beat()
    again = Watched(watched.path.parent)
    again.beat.close()
    assert watched.check() == "", "one that ends before its first beat leaves the file to whoever has it"
    again.beat()
    again.beat.close()
    assert not watched.path.exists()


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told(tmp_path: Path, kind: str) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1))
        receiver.settimeout(10)
        beat = HeartbeatFile(None, program="x", monotonic=lambda: 0.0, notify=systemd_notifier({"NOTIFY_SOCKET": name}))
        beat()
        assert receiver.recv(200) == b"READY=1\nWATCHDOG=1\nSTATUS=working"
        beat(trouble="no broker")
        assert receiver.recv(200) == b"WATCHDOG=1\nSTATUS=no broker"
    beat(trouble="nobody listens any more")


def test_without_systemd_nobody_is_told() -> None:
    systemd_notifier({})("READY=1")
    systemd_notifier({"NOTIFY_SOCKET": "vsock:2:1234"})("READY=1")
