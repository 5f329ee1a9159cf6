"""One file, one aggregator; whatever is wrong with it is said in one line, and nothing else is touched."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

from aggregator.admission import AdmissionPolicy
from aggregator.ledger.file_format import LedgerBusy, LedgerError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.pruning import SNAPSHOTS_KEPT
from aggregator.ledger.reading import read_journal, read_totals, read_versions
from aggregator.ledger.records import Batch, MergedUpdate, batch_of, row_of
from aggregator.ledger.restoring import restore
from aggregator.merging.fedbuff import FEDBUFF
from aggregator.merging.rule import Step
from tests.aggregator.synthetic import CHUNKED, LAYOUT, SETTINGS, T0, TASK, SyntheticDevice, begin, initial_weights
from wire_contract.codec import encode


def complaint(path: Path, *, task: str = TASK, shard: int = 0) -> str:
    """The one line, and the lock is free again."""
    for _ in range(2):
        with pytest.raises(LedgerError) as caught:
            Ledger(path, task=task, shard=shard).close()
        assert "another aggregator" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with a line in it, closed."""
    path = tmp_path / "ledger.sqlite3"
    with Ledger(path, task=TASK) as ledger:
        begin(ledger)
    return path


def merged(device: SyntheticDevice, sequence: int, *, into_version: int = 1) -> Batch:
    update = device.update(base_version=0, base_digest=bytes(32), sequence=sequence)
    row = MergedUpdate(update=update, payload=encode(update), into_version=into_version, staleness=0, weight=1.0)
    return Batch(merged=(row,))


def test_a_second_aggregator_is_refused_until_the_first_is_gone(path: Path) -> None:
    first = Ledger(path, task=TASK)
    with pytest.raises(LedgerError, match=f"another aggregator .process {os.getpid()}. is using it"):
        Ledger(path, task=TASK)
    first.close()
    Ledger(path, task=TASK).close()


def test_the_lock_of_a_killed_aggregator_is_no_hindrance(path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from aggregator.ledger.ledger import Ledger;"
        "ledger = Ledger(Path(sys.argv[1]), task='toy'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False).returncode == -9
    Ledger(path, task=TASK).close()


def test_what_belongs_to_another_is_refused(path: Path) -> None:
    assert "its task is 'toy', not 'other'" in complaint(path, task="other")
    assert "its shard is '0', not '1'" in complaint(path, shard=1)


def test_another_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "photos.sqlite3"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE photo (name TEXT)")
    before = path.read_bytes()
    assert "not a ledger" in complaint(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be one" * 40, b"SQLite format 3\0" + b"\x7f" * 8_000]
)
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(content)
    assert "damaged" in complaint(path)
    assert path.read_bytes() == content


def test_a_damaged_page_is_found(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4_096 + 100 : 8_192] = os.urandom(4_096 - 100)
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="damaged"):
        Ledger(path, task=TASK).close()


def test_a_cut_ledger_is_found(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "damaged" in complaint(path)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE version SET weights = x'00000000'", "has 1 weights"),
        ("UPDATE version SET weights = NULL", "has no weights"),
        ("UPDATE version SET weights = x'000000'", "has no weights"),
        ("DELETE FROM version", "has no weights"),
        ("UPDATE version SET encoding = 'int3'", "'int3' is not known here"),
        ("UPDATE meta SET value = x'c1' WHERE key = 'layout'", "its layout"),
        ("UPDATE journal SET payload = x'00'", "an update of a: frame"),
        ("UPDATE journal SET payload = NULL", "was emptied"),
    ],
)
def test_damage_inside_the_tables_is_one_line(path: Path, statement: str, said: str) -> None:
    with Ledger(path, task=TASK) as ledger:
        ledger.commit_batch(merged(SyntheticDevice("a"), 1), now=T0)
        ledger._db.execute(statement)
        with pytest.raises(LedgerError, match=said) as caught:
            restore(ledger, SETTINGS)
        assert "\n" not in str(caught.value)


def test_places_that_cannot_hold_a_ledger(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "folder that can be written" in complaint(file / "ledger")
    assert "is a folder" in complaint(folder)


def test_all_names_of_a_ledger_have_one_lock(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(path)
    for first, second in ((path, link), (link, path)):
        with Ledger(first, task=TASK), pytest.raises(LedgerError, match="another aggregator"):
            Ledger(second, task=TASK)
    assert list(link.parent.iterdir()) == [link], "nothing lies beside the link"


def test_a_locked_ledger_is_no_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.ledger.ledger.BUSY_MILLISECONDS", 0)
    with Ledger(path, task=TASK) as ledger, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerBusy, match="is locked; end the other program that is using it"):
            ledger.commit_batch(merged(SyntheticDevice("a"), 1), now=T0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "this user may not write" in complaint(tmp_path / "ledger")


def test_a_full_disk_changes_nothing(path: Path) -> None:
    with Ledger(path, task=TASK) as ledger:
        db = ledger._db
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
        before = list(db.iterdump())
        big = SyntheticDevice("a", CHUNKED)
        for _ in range(3):
            with pytest.raises(LedgerBusy, match="free disk space"):
                ledger.commit_batch(merged(big, 1), now=T0)
        newest, _ = ledger.newest()
        with pytest.raises(LedgerBusy):
            ledger.commit_version(
                replace(newest, version=1), Step(np.zeros(100_000, dtype=np.float32)), rule=FEDBUFF.name
            )
        assert list(db.iterdump()) == before
        db.execute("PRAGMA max_page_count = 100000")
        ledger.commit_batch(merged(big, 1), now=T0)
    assert read_totals(path).merged == 1


def test_a_restored_buffer_has_the_bits_of_the_lost_one(path: Path) -> None:
    believed = replace(SETTINGS, policy=AdmissionPolicy(slot_norm_ratio=inf))  # large sums show how they were added
    with Ledger(path, task=TASK) as ledger:
        line = restore(ledger, believed)
        devices = [SyntheticDevice(name) for name in "abcdefgh"]
        random = np.random.default_rng(1)
        sizes = random.uniform(0.01, 1, (len(devices), 1)) * random.standard_normal((len(devices), LAYOUT.size))
        payloads = [
            device.payload(line, difference=size.astype(np.float32))
            for size, device in zip(sizes, devices, strict=True)
        ]
        judged = [line.judge(device.parsed, payload) for device, payload in zip(devices, payloads, strict=True)]
        ledger.commit_batch(batch_of(judged), now=T0)
        expected = line.next_step().weights.tobytes()
        assert restore(ledger, believed).next_step().weights.tobytes() == expected
    with Ledger(path.with_name("other"), task=TASK) as ledger:
        other = begin(ledger, believed)
        for device, payload in reversed(list(zip(devices, payloads, strict=True))):
            other.judge(device.parsed, payload)
        assert other.next_step().weights.tobytes() != expected, "the order of additions shows in the bits"


def test_an_update_twice_is_a_broken_invariant(path: Path) -> None:
    with Ledger(path, task=TASK) as ledger:
        ledger.commit_batch(merged(SyntheticDevice("a"), 1), now=T0)
        with pytest.raises(sqlite3.IntegrityError):
            ledger.commit_batch(merged(SyntheticDevice("a"), 1), now=T0)
        assert read_totals(path).merged == 1


def test_only_the_newest_versions_keep_their_weights(path: Path) -> None:
    with Ledger(path, task=TASK) as ledger:
        line = restore(ledger, SETTINGS)
        for version in range(1, 6):
            ledger.commit_batch(merged(SyntheticDevice("a"), version, into_version=version), now=T0)
            release = line.next_release(line.weights, at=T0)
            ledger.commit_version(row_of(release), Step(line.weights), rule=FEDBUFF.name)
            line.advance(release, Step(line.weights))
        rows = ledger._db.execute("SELECT version FROM version WHERE weights IS NOT NULL").fetchall()
        assert [row[0] for row in rows] == [4, 5]
        assert len(rows) == SNAPSHOTS_KEPT
        restored = restore(ledger, SETTINGS)
        assert (restored.version, restored.weights.tobytes()) == (5, initial_weights().tobytes())
    assert [moment.version for moment in read_versions(path)] == [0, 1, 2, 3, 4, 5]
    assert [row.sequence for row in read_journal(path)] == [1, 2, 3, 4, 5]


def test_only_the_messages_that_a_broker_may_need_again_are_kept(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger", task=TASK) as ledger:
        line = begin(ledger, SETTINGS, CHUNKED)
        for version in range(1, 21):
            weights = line.weights + np.float32(0.01 * version)
            release = line.next_release(weights, at=T0 + version)
            ledger.commit_version(row_of(release), Step(weights), rule=FEDBUFF.name)
            line.advance(release, Step(weights))
            restored = restore(ledger, SETTINGS).release
            assert (restored.published.weights == release.published.weights).all()
            assert (restored.model, restored.snapshot, restored.deltas) == (
                release.model,
                release.snapshot,
                release.deltas,
            )
        rows = ledger._db.execute(
            "SELECT version, model IS NOT NULL, delta IS NOT NULL, chunks FROM version"
        ).fetchall()
    assert [version for version, model, _, _ in rows if model] == [16, 20], "the newest snapshot and the newest"
    assert [version for version, _, delta, _ in rows if delta] == list(range(13, 21))
    assert [version for version, _, _, chunks in rows if chunks is not None] == [0, 8, 16]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE version SET model = NULL", "no model messages"),
        ("UPDATE version SET model = x'00'", "frame"),
        ("UPDATE version SET digest = zeroblob(32)", "another's"),
        ("UPDATE version SET chunks = NULL", "has no snapshot"),
    ],
)
def test_a_damaged_message_is_one_line(path: Path, statement: str, words: str) -> None:
    with Ledger(path, task=TASK) as ledger:
        ledger._db.execute(statement)
        with pytest.raises(LedgerError, match=words) as caught:
            restore(ledger, SETTINGS)
    assert "damaged" in str(caught.value)


def test_reading_needs_no_lock_and_takes_any_name(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=rw#%20 ledger"
    with Ledger(path, task=TASK) as ledger:
        begin(ledger)
        ledger.commit_batch(merged(SyntheticDevice("a"), 1), now=T0 + 5)
        totals = read_totals(path)
    assert (totals.task, totals.version, totals.merged, totals.waiting) == (TASK, 0, 1, 1)
    assert (totals.devices, totals.updated_at) == (1, T0 + 5)


def test_reading_what_is_no_ledger_is_one_line(tmp_path: Path) -> None:
    foreign, empty, garbage = tmp_path / "foreign", tmp_path / "empty", tmp_path / "garbage"
    with closing(sqlite3.connect(foreign)) as db, db:
        db.execute("CREATE TABLE meta (key, value)")
    empty.touch()
    garbage.write_bytes(b"x" * 5_000)
    for path in (tmp_path / "missing", foreign, empty, garbage, tmp_path):
        with pytest.raises(LedgerError) as caught:
            read_totals(path)
        assert "\n" not in str(caught.value)
    assert empty.stat().st_size == 0, "looking changes nothing"


def test_layouts_come_back(path: Path) -> None:
    with Ledger(path, task=TASK) as ledger:
        assert ledger.layout() == LAYOUT
