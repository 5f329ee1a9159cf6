"""The spool: bounded, in order, and whole lines only, whatever dies."""

import random
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from aggregator.telemetry.spool import SPOOL_BYTES_MIN, Spool, SpoolError, read_counters, read_spool

LINE = "m f={:06d}i 1"
LINE_BYTES = len(LINE.format(0)) + 1


def lines(*numbers: int) -> list[str]:
    return [LINE.format(number) for number in numbers]


def numbers_in(data: bytes) -> list[int]:
    assert data.endswith(b"\n")
    return [int(line[4:10]) for line in data.splitlines()]


made: list[Spool] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    for one in made:
        one.close()
    made.clear()


def spool(folder: Path) -> Spool:
    made.append(Spool(folder, bytes_max=SPOOL_BYTES_MIN))
    return made[-1]


def crash(one: Spool) -> None:
    """The process is gone: nothing is written any more, and the lock is free."""
    one._closed = True
    one._file.close()
    one._lock.release()


def drain(one: Spool, *, bytes_max: int = 1_000) -> list[int]:
    found = []
    while (chunk := one.read(bytes_max)) is not None:
        assert len(chunk.data) <= bytes_max
        assert chunk.lines == len(numbers_in(chunk.data))
        found += numbers_in(chunk.data)
        one.advance(chunk)
    return found


def test_what_was_appended_is_read_once_in_order(tmp_path: Path) -> None:
    one = spool(tmp_path)
    one.append(lines(*range(1_000)))
    assert drain(one) == list(range(1_000))
    one.append(lines(1_000))
    assert drain(one) == [1_000]
    assert one.counters.sent == 1_001
    assert one.counters.spool_dropped == 0


def test_what_is_read_and_not_advanced_comes_again(tmp_path: Path) -> None:
    one = spool(tmp_path)
    one.append(lines(1, 2))
    assert one.read(1_000) == one.read(1_000)
    assert drain(one) == [1, 2]


def test_it_is_bounded_and_counts_what_it_drops(tmp_path: Path) -> None:
    one = spool(tmp_path)
    total = 3 * SPOOL_BYTES_MIN // LINE_BYTES
    for begin in range(0, total, 50):
        one.append(lines(*range(begin, min(begin + 50, total))))
        on_disk = sum(path.stat().st_size for path in tmp_path.glob("*.lines"))
        assert on_disk == one.size_bytes <= SPOOL_BYTES_MIN
    kept = drain(one)
    assert kept == list(range(kept[0], total)), "the oldest go, and the rest stays in order"
    assert one.counters.spool_dropped == kept[0]
    assert len(kept) * LINE_BYTES > SPOOL_BYTES_MIN * 0.9, "it drops a sixteenth at once, not all"


def test_what_was_sent_of_a_dropped_segment_is_not_dropped(tmp_path: Path) -> None:
    one = spool(tmp_path)
    one.append(lines(*range(100)))
    chunk = one.read(40 * LINE_BYTES)
    assert chunk is not None
    one.advance(chunk)
    total = 3 * SPOOL_BYTES_MIN // LINE_BYTES
    one.append(lines(*range(100, total)))
    kept = drain(one)
    assert one.counters.spool_dropped == kept[0] - 40
    assert one.counters.sent + one.counters.spool_dropped == total


def test_a_segment_that_is_dropped_while_it_is_sent_is_counted_once(tmp_path: Path) -> None:
    one = spool(tmp_path)
    one.append(lines(*range(100)))
    chunk = one.read(1_000)
    assert chunk is not None
    total = 3 * SPOOL_BYTES_MIN // LINE_BYTES
    one.append(lines(*range(100, total)))
    one.advance(chunk)
    kept = drain(one)
    assert one.counters.sent == len(kept)
    assert one.counters.sent + one.counters.spool_dropped == total


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    one = spool(tmp_path)
    one.append(lines(*range(5_000)))
    chunk = one.read(3_000)
    assert chunk is not None
    one.advance(chunk)
    sent = numbers_in(chunk.data)
    before = one.counters
    crash(one)
    again = spool(tmp_path)
    assert again.counters == before
    again.append(lines(5_000))
    assert drain(again)[0] == max(sent[-1] + 1, before.spool_dropped)


def test_a_line_that_a_crash_cut_is_taken_off_and_counted(tmp_path: Path) -> None:
    one = spool(tmp_path)
    one.append(lines(1, 2))
    one.close()
    (segment,) = tmp_path.glob("*.lines")
    with segment.open("ab") as file:
        file.write(b"m f=0000")
    assert list(read_spool(tmp_path)) == lines(1, 2), "a reader beside it does not see the half"
    again = spool(tmp_path)
    again.append(lines(3))
    assert drain(again) == [1, 2, 3]
    assert again.counters.spool_dropped == 1


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"segment": 99, "offset": 5, "counters": {}}', b'{"segment":1}']
)
def test_progress_that_cannot_be_read_sends_again_rather_than_not(tmp_path: Path, damage: bytes) -> None:
    one = spool(tmp_path)
    one.append(lines(1, 2))
    drain(one)
    one.close()
    (tmp_path / "progress.json").write_bytes(damage)
    assert drain(spool(tmp_path)) == [1, 2]


def test_random_lives(tmp_path: Path) -> None:
    """Appends, sends, crashes and cuts in any order: what is sent rises, and all is sent or counted."""
    for seed in range(12):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        one, total, cuts, sent = spool(folder), 0, 0, [-1]
        for _ in range(60):
            match chance.choice(["append", "append", "send", "crash"]):
                case "append":
                    count = chance.randrange(1, 700)
                    one.append(lines(*range(total, total + count)))
                    total += count
                case "send":
                    chunk = one.read(chance.randrange(100, 20_000))
                    if chunk is not None:
                        one.advance(chunk)
                        assert numbers_in(chunk.data)[0] > sent[-1], seed
                        sent += numbers_in(chunk.data)
                case "crash":
                    crash(one)
                    if chance.random() < 0.5:
                        with max(folder.glob("*.lines")).open("ab") as file:
                            file.write(b"m f=99")
                            cuts += 1
                    one = spool(folder)
        sent += drain(one)
        assert sent == sorted(set(sent)), seed
        assert one.counters.sent == len(sent) - 1
        assert one.counters.sent + one.counters.spool_dropped == total + cuts, seed


def test_a_disk_that_refuses_costs_lines_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = spool(tmp_path)
    one.append(lines(1))
    one._file.close()
    one._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
    one.append(lines(2, 3))
    one.append(lines(4))
    one._file.close()
    one._file = one._open()
    one.append(lines(5))
    assert drain(one) == [1, 5]
    assert one.counters.spool_dropped == 3
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text


def test_a_disk_that_takes_half_a_line_keeps_none_of_it(tmp_path: Path) -> None:
    class Half(FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[: len(data) // 2])

    one = spool(tmp_path)
    one.append(lines(1))
    one._file.close()
    one._file = Half(next(tmp_path.glob("*.lines")), "ab")
    one.append(lines(2))
    one._file.close()
    one._file = one._open()
    one.append(lines(3))
    assert drain(one) == [1, 3]
    assert one.counters.spool_dropped == 1


def test_its_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    spool(tmp_path).close()
    for path in tmp_path.iterdir():
        path.chmod(0o644)  # as earlier programs made them
    one = spool(tmp_path)
    one.append(lines(1))
    one.close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir() if path.name != "lock"}
    assert len(modes) == 2
    assert set(modes.values()) == {0o600}


def test_two_programs_cannot_write_one_spool(tmp_path: Path) -> None:
    one = spool(tmp_path)
    with pytest.raises(SpoolError, match="another aggregator writes there"):
        spool(tmp_path)
    one.close()
    spool(tmp_path).close()


def test_a_folder_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="give another --telemetry-spool"):
        spool(tmp_path / "file")
    with pytest.raises(SpoolError, match="there is no such folder"):
        list(read_spool(tmp_path / "nothing"))


def test_after_close_nothing_happens_any_more(tmp_path: Path) -> None:
    one = spool(tmp_path)
    one.append(lines(1))
    chunk = one.read(100)
    assert chunk is not None
    one.close()
    one.append(lines(2))
    one.advance(chunk)
    assert one.read(100) is None
    assert list(read_spool(tmp_path)) == lines(1)
    assert read_counters(tmp_path).sent == 0
