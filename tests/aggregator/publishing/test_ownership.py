"""Whose manifest is retained on the model topic, by what the ledger knows."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from aggregator.ledger.records import Mark
from aggregator.publishing.ownership import RetainedManifest, identify, outranks, refusal, way_forward
from tests.wire_contract.keys import key
from wire_contract import codec
from wire_contract.messages import Manifest
from wire_contract.signatures.signing import sign

HERE, ELSEWHERE = bytes(32), bytes([1]) * 32
TOPIC = "fedkd/v1/toy/model"


@dataclass
class Marks:
    """A ledger of a few versions."""

    versions: tuple[Mark, ...]

    def mark_from(self, version: int) -> Mark | None:
        return min((one for one in self.versions if one.version >= version), key=lambda one: one.version, default=None)

    def moved_forward(self) -> Mark | None:
        moved = [one for one in self.versions if one.parent is not None and one.parent < one.version - 1]
        return max(moved, key=lambda one: one.version, default=None)


def mark(version: int, *, parent: int | None = None, digest: bytes = HERE, at: float = 0.0) -> Mark:
    before = version - 1 if parent is None and version else parent
    return Mark(version=version, parent=before, digest=digest, committed_at=at)


def manifest(version: int, *, digest: bytes = HERE, at: float = 0.0, task: str = "toy") -> Manifest:
    return Manifest(
        task=task,
        version=version,
        parent=None,
        digest=digest,
        layout_fingerprint=bytes(8),
        encoding="float32",
        size_bytes=1,
        chunk_digests=(bytes(32),),
        inline=None,
        shards=1,
        update_bytes_max=1_024,
        published_at=at,
    )


def whose(found: Manifest, *versions: Mark) -> str:
    return identify(codec.encode(found), task="toy", marks=Marks(versions)).whose


def test_a_version_that_the_ledger_has_is_ours() -> None:
    line = (mark(0), mark(1), mark(2))
    assert [whose(manifest(version), *line) for version in range(3)] == ["ours"] * 3


def test_a_higher_version_or_other_weights_are_another_line() -> None:
    line = (mark(0), mark(1), mark(2))
    assert whose(manifest(3), *line) == "another line"
    assert whose(manifest(78, digest=ELSEWHERE), *line) == "another line"
    assert whose(manifest(2, digest=ELSEWHERE), *line) == "another line"
    assert whose(manifest(1, digest=ELSEWHERE), *line) == "another line"


def test_two_ledgers_that_began_with_the_same_file_are_two_lines() -> None:
    assert whose(manifest(0, at=5.0), mark(0, at=5.0)) == "ours"
    assert whose(manifest(0, at=6.0), mark(0, at=5.0)) == "another line"


def test_what_the_ledger_was_moved_forward_past_does_not_stand_in_the_way() -> None:
    line = (mark(0), mark(1), mark(2, at=10.0), mark(79, parent=2, at=100.0), mark(80, at=110.0))
    for version in (3, 50, 78):
        assert whose(manifest(version, digest=ELSEWHERE, at=100.0), *line) == "passed"
        assert whose(manifest(version, digest=ELSEWHERE, at=101.0), *line) == "another line", "it came later"
    assert whose(manifest(2, digest=ELSEWHERE, at=99.0), *line) == "passed", "it stood there when that was said"
    assert whose(manifest(2, digest=ELSEWHERE, at=101.0), *line) == "another line", "it came later"
    assert whose(manifest(79, digest=ELSEWHERE, at=99.0), *line) == "another line"
    assert whose(manifest(81, digest=ELSEWHERE, at=99.0), *line) == "another line"


@pytest.mark.parametrize(("found", "version"), [(78, 2), (2, 2), (1, 2), (3, 2)])
def test_the_number_that_is_named_for_moving_forward_leads_past(found: int, version: int) -> None:
    number = way_forward(found, version)
    line = (*(mark(one) for one in range(version + 1)), mark(number, parent=version, at=100.0))
    assert number > version
    assert whose(manifest(found, digest=ELSEWHERE, at=50.0), *line) == "passed"


def test_what_the_ledger_has_dropped_does_not_stand_in_the_way() -> None:
    assert whose(manifest(3, digest=ELSEWHERE, at=9.0), mark(1_000, at=9.0), mark(1_001, at=10.0)) == "forgotten"


def test_a_young_line_is_not_taken_for_what_an_old_ledger_has_dropped() -> None:
    assert whose(manifest(3, digest=ELSEWHERE, at=9.5), mark(1_000, at=9.0), mark(1_001, at=10.0)) == "another line"


def test_only_what_devices_would_keep_outranks_ours() -> None:
    def ranks_above(rival: Manifest) -> bool:
        return outranks(rival, version=5, digest=HERE, published_at=9.0)

    assert not ranks_above(manifest(5, at=1e9)), "it is ours"
    assert not ranks_above(manifest(4, digest=ELSEWHERE, at=8.0)), "a late copy"
    assert ranks_above(manifest(6, digest=ELSEWHERE, at=8.0))
    assert ranks_above(manifest(4, digest=ELSEWHERE, at=10.0))


def test_no_number_is_named_that_leads_to_the_end_of_numbers() -> None:
    found = RetainedManifest("another line", manifest(2**53))
    said = str(refusal(found, task="toy", topic=TOPIC, ledger=Path("ledger.sqlite3"), version=2))
    assert "move-forward" not in said
    assert "--replace-line" in said


def test_what_cannot_be_read_serves_nobody_and_a_newer_program_may_be_right() -> None:
    marks = Marks((mark(0),))
    assert identify(b"nonsense", task="toy", marks=marks).whose == "unreadable"
    assert identify(codec.encode(manifest(0, task="other")), task="toy", marks=marks).whose == "unreadable"
    newer = codec.frame(b"\x81\xa1v\x63")
    assert identify(newer, task="toy", marks=marks).whose == "a newer program"
    said = str(refusal(identify(newer, task="toy", marks=marks), task="toy", topic=TOPIC, ledger=Path("l"), version=0))
    assert "Update this program, or give --replace-line" in said


def test_with_keys_only_what_they_signed_is_a_line() -> None:
    marks, ours = Marks((mark(0),)), [key(1).public]
    stranger = manifest(78, digest=ELSEWHERE)
    for payload in (codec.encode(stranger), sign(stranger, [key(2)]), b"nonsense", codec.frame(b"\x81\xa1v\x63")):
        assert identify(payload, task="toy", marks=marks, keys=ours).whose in {"untrusted", "unreadable"}
    assert identify(sign(stranger, [key(2), key(1)]), task="toy", marks=marks, keys=ours).whose == "another line"
    assert identify(sign(manifest(0), [key(1)]), task="toy", marks=marks, keys=ours).whose == "ours"
    assert identify(sign(stranger, [key(2)]), task="toy", marks=marks).whose == "another line", (
        "without keys any counts"
    )


@pytest.mark.parametrize("moment", [0.0, 1e300, float("inf"), float("nan"), -1e300])
def test_the_refusal_is_one_line_that_names_both_ways_out(moment: float) -> None:
    found = RetainedManifest("another line", manifest(78, at=moment))
    said = str(refusal(found, task="toy", topic=TOPIC, ledger=Path("ledger.sqlite3"), version=2))
    assert "\n" not in said
    assert f"another line stands on {TOPIC}, at version 78" in said
    assert "asyncfedkd aggregator move-forward --ledger ledger.sqlite3 --version 79" in said
    assert "--replace-line" in said
