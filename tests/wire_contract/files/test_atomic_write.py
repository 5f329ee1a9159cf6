"""A file is replaced whole or stays as it was; nothing temporary is left, and no other file is overwritten."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wire_contract.files import atomic_write
from wire_contract.files.atomic_write import Sync, move_to_new_name, temporary_file, write_atomically, write_new_file

UMASK = 0o027


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(UMASK)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for content in (b"first", b"second"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("asked", "expected"), [(0o600, 0o600), (0o644, 0o644), (None, 0o640)])
def test_the_mode_is_exact_or_left_to_the_umask(tmp_path: Path, asked: int | None, expected: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"")
    path.chmod(0o666)
    write_atomically(path, b"new", mode=asked)
    assert mode(path) == expected


def test_a_reader_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old"


def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"old")

    def fail(new: Path) -> None:
        assert (new.parent, new.read_bytes()) == (tmp_path, b"new")
        raise OSError

    for temporary in (None, tmp_path / "list.new"):
        with pytest.raises(OSError):  # noqa: PT011 — ours
            write_atomically(path, b"new", temporary=temporary, before_rename=fail)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path, left = tmp_path / "figures", tmp_path / "figures.new"
    left.write_bytes(b"a part that is longer than the new content")
    write_atomically(path, b"whole", temporary=left)
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("sync", "expected"),
    [("nothing", ["rename"]), ("file", ["flush", "rename"]), ("file and folder", ["flush", "rename", "flush"])],
)
def test_what_is_flushed_and_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: Sync, expected: list[str]
) -> None:
    calls: list[str] = []
    rename = Path.replace
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("flush"))
    monkeypatch.setattr(Path, "replace", lambda old, new: calls.append("rename") or rename(old, new))
    write_atomically(tmp_path / "file", b"content", sync=sync)
    assert calls == expected


def test_a_new_file_never_overwrites_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_new_file(path, b"first", mode=0o644)
    assert mode(path) == 0o640
    with pytest.raises(FileExistsError):
        write_new_file(path, b"second", mode=0o644)
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_move_to_a_new_name_never_overwrites_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def no_links(_self: Path, _target: Path) -> None:
        raise OSError

    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    path = tmp_path / "backup"
    with temporary_file(path) as made:
        assert mode(made) == 0o600
        made.write_bytes(b"first")
        move_to_new_name(made, path)
    with temporary_file(path) as made, pytest.raises(FileExistsError):
        move_to_new_name(made, path)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_not_flushed_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_write.os, "name", "nt")
    atomic_write.sync_folder(tmp_path / "which is not even there")
