"""In whatever order manifests and chunks come, the newest complete model is held."""

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_client.downlink.download_plan import Wanted
from device_client.downlink.inbox import Inbox
from device_client.downlink.outcome import NewModel, Rejected
from tests.device_client.stage import TASK, model
from tests.wire_contract.announcements import announce
from wire_contract import codec
from wire_contract.layout import Layout, TensorSpec
from wire_contract.limits import CHUNK_BYTES_MAX, MOMENT_MAX
from wire_contract.publication.manifest import Announcement

LARGE = Layout((TensorSpec("a", (20_000,)),))
"""80 kB of random numbers: three chunks."""


@dataclass(frozen=True)
class Part:
    """One message; `index` None is the manifest."""

    version: int
    index: int | None


LINE = {version: model(version, layout=LARGE) for version in range(5)}


def put(inbox: Inbox, announcement: Announcement, index: int | None = None) -> Any:
    manifest = announcement.manifest
    if index is None:
        return inbox.manifest(codec.encode(manifest))
    return inbox.chunk(manifest.version, index, announcement.chunks[index])


def put_all(inbox: Inbox, announcement: Announcement) -> Any:
    for index in range(len(announcement.chunks)):
        assert put(inbox, announcement, index) is None
    return put(inbox, announcement)


def version_of(inbox: Inbox) -> int | None:
    return None if inbox.held is None else inbox.held.published.version


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_any_order_and_duplication_gives_the_newest_complete_model(data: st.DataObject) -> None:
    versions = data.draw(st.sets(st.sampled_from(sorted(LINE)), min_size=1, max_size=3))
    parts = [Part(version, index) for version in sorted(versions) for index in (None, 0, 1, 2)]
    lost = data.draw(st.sets(st.sampled_from(parts), max_size=3))
    there = [part for part in parts if part not in lost]
    twice = data.draw(st.lists(st.sampled_from(there), max_size=6)) if there else []
    order = data.draw(st.permutations(there + twice))

    inbox = Inbox(TASK)
    arrived = []
    for part in order:
        outcome = put(inbox, LINE[part.version], part.index)
        assert not isinstance(outcome, Rejected)
        if outcome is not None:
            arrived.append(outcome.published.version)

    complete = [version for version in versions if not any(part.version == version for part in lost)]
    assert version_of(inbox) == max(complete, default=None)
    assert arrived == sorted(set(arrived)), "each version is told once, and never an older one after a newer one"
    if inbox.held is not None:
        assert np.array_equal(inbox.held.published.weights, LINE[max(complete)].published.weights)


def test_an_inline_model_needs_no_chunks() -> None:
    inbox = Inbox(TASK)
    assert isinstance(put(inbox, model(3)), NewModel)
    assert version_of(inbox) == 3
    assert put(inbox, model(3)) is None


def test_what_is_held_can_be_given_to_another_inbox_whole() -> None:
    inbox, other = Inbox(TASK), Inbox(TASK)
    put_all(inbox, LINE[2])
    assert inbox.held is not None
    restored = other.announced(inbox.held.manifest)
    assert isinstance(restored, NewModel)
    assert np.array_equal(restored.published.weights, LINE[2].published.weights)


def test_a_new_line_replaces_the_old_one_and_the_old_one_does_not_come_back() -> None:
    inbox = Inbox(TASK)
    put(inbox, model(40))
    assert isinstance(put(inbox, model(0, seed=1, published_at=9_000.0)), NewModel)
    assert put(inbox, model(40)) is None, "a late copy of a dead line"
    assert version_of(inbox) == 0
    put(inbox, model(1, seed=1, published_at=9_001.0))
    assert version_of(inbox) == 1


def disown(inbox: Inbox) -> Any:
    assert inbox.held is not None
    return inbox.disown(inbox.held.published.version, inbox.held.published.digest)


def test_a_version_that_the_aggregator_does_not_know_gives_way_to_what_it_announces() -> None:
    inbox = Inbox(TASK)
    put(inbox, model(78))
    older = model(2, seed=1)
    assert put(inbox, older) is None, "lower, and published earlier: it looks like a late copy"
    assert inbox.disown(78, bytes(32)) is None
    assert inbox.disown(2, older.manifest.digest) is None
    assert version_of(inbox) == 78, "none of these is the held one"
    assert isinstance(disown(inbox), NewModel)
    assert version_of(inbox) == 2
    assert put(inbox, model(78)) is None, "and it does not come back"
    assert isinstance(put(inbox, model(3, seed=1)), NewModel)


def test_what_is_announced_after_that_is_taken_too_whatever_its_number_and_moment() -> None:
    inbox = Inbox(TASK)
    put(inbox, model(78))
    assert disown(inbox) is None
    assert inbox.is_disowned
    assert version_of(inbox) == 78, "until there is another"
    fresh = model(2, seed=1, layout=LARGE)
    assert put(inbox, fresh) is None
    assert version_of(inbox) == 78
    put(inbox, fresh, 0)
    put(inbox, fresh, 1)
    assert isinstance(put(inbox, fresh, 2), NewModel)
    assert (version_of(inbox), inbox.is_disowned) == (2, False)


def test_the_held_version_announced_again_is_no_longer_disowned() -> None:
    inbox = Inbox(TASK)
    put(inbox, model(78))
    disown(inbox)
    assert put(inbox, model(78)) is None
    assert not inbox.is_disowned


def test_a_line_goes_back_to_a_version_that_was_held_before() -> None:
    inbox = Inbox(TASK)
    for version in range(5):
        put(inbox, model(version))
    assert put(inbox, model(2)) is None
    assert isinstance(disown(inbox), NewModel)
    assert version_of(inbox) == 2


def test_a_version_that_is_over_comes_back_when_it_is_published_anew() -> None:
    """An older ledger that was told to replace the line says so by a later moment of publication."""
    inbox = Inbox(TASK)
    for version in range(5):
        put(inbox, model(version))
    assert put(inbox, model(2)) is None
    assert isinstance(put(inbox, model(2, published_at=9_000.0)), NewModel)
    assert put(inbox, model(4)) is None
    assert isinstance(put(inbox, model(4, published_at=9_001.0)), NewModel)


@pytest.mark.parametrize("moment", [9_000.0, MOMENT_MAX - 0.001, MOMENT_MAX])
def test_whatever_a_stranger_announces_can_be_followed_by_the_line(moment: float) -> None:
    inbox = Inbox(TASK)
    put(inbox, model(5))
    assert isinstance(put(inbox, model(2**53, seed=1, published_at=moment, shards=65_521)), NewModel)
    assert put(inbox, model(5)) is None, "that alone is a late copy"
    assert isinstance(put(inbox, model(5, published_at=min(moment + 1, MOMENT_MAX))), NewModel)
    assert inbox.held is not None
    assert (version_of(inbox), inbox.held.manifest.shards) == (5, 1)
    assert isinstance(put(inbox, model(6, published_at=min(moment + 1, MOMENT_MAX))), NewModel)


def test_a_moment_after_the_last_is_not_believed() -> None:
    outcome = put(Inbox(TASK), model(5, published_at=MOMENT_MAX + 1))
    assert isinstance(outcome, Rejected)
    assert "a moment that cannot be" in outcome.reason


def test_the_held_version_published_anew_ends_what_a_stranger_announced() -> None:
    inbox = Inbox(TASK)
    put(inbox, model(5))
    stranger = model(1_000, seed=1, layout=LARGE, published_at=9_000.0)
    assert put(inbox, stranger) is None
    assert inbox.is_behind
    put(inbox, model(5))
    assert inbox.is_behind, "a late copy says nothing"
    assert put(inbox, model(5, published_at=9_001.0)) is None
    assert not inbox.is_behind
    assert inbox.wanted == Wanted()
    for index in range(3):
        put(inbox, stranger, index)
    assert put(inbox, stranger) is None
    assert version_of(inbox) == 5


def test_an_earlier_model_with_a_lower_version_is_old_not_a_new_line() -> None:
    inbox = Inbox(TASK)
    put(inbox, model(5))
    assert put(inbox, model(4)) is None
    assert version_of(inbox) == 5


def test_a_higher_version_counts_even_if_the_clock_was_set_back() -> None:
    inbox = Inbox(TASK)
    put(inbox, model(5, published_at=9_000.0))
    assert isinstance(put(inbox, model(6, published_at=1.0)), NewModel)


def test_a_new_line_whose_chunks_come_before_its_manifest_under_a_lower_version() -> None:
    inbox = Inbox(TASK)
    put_all(inbox, LINE[4])
    fresh = model(2, seed=7, layout=LARGE, published_at=9_000.0)
    assert isinstance(put_all(inbox, fresh), NewModel)
    assert version_of(inbox) == 2


def test_two_versions_may_share_a_chunk() -> None:
    weights = np.random.default_rng(0).standard_normal(LARGE.size).astype(np.float32)
    other = weights.copy()
    other[-1] += 1
    one, two = (
        announce(
            vector,
            task=TASK,
            version=version,
            parent=None,
            layout=LARGE,
            encoding="float32",
            shards=1,
            update_bytes_max=1,
            published_at=1.0 + version,
        )
        for version, vector in ((1, weights), (2, other))
    )
    # The version number stands in the payload's first chunk, the change in the last: the middle one is the same.
    assert set(one.chunks) & set(two.chunks)
    inbox = Inbox(TASK)
    for index in range(3):
        put(inbox, two, index)
    put_all(inbox, one)
    assert isinstance(put(inbox, two), NewModel)
    third = msgspec.structs.replace(two.manifest, version=3)
    assert put_all(Inbox(TASK), one) is not None
    for index in range(3):
        inbox.chunk(3, index, two.chunks[index])
    # Its payload says version 2, so it is refused; but it was found complete.
    assert isinstance(inbox.manifest(codec.encode(third)), Rejected)


def test_bytes_without_a_manifest_are_bounded_and_the_oldest_go() -> None:
    inbox = Inbox(TASK, unclaimed_bytes_max=4 * CHUNK_BYTES_MAX)
    for index in range(100):
        inbox.chunk(9, index, bytes([index]) * CHUNK_BYTES_MAX)
    assert sum(map(len, inbox._snapshots._chunks._chunks.values())) == 4 * CHUNK_BYTES_MAX
    assert isinstance(put_all(inbox, LINE[1]), NewModel), "the newest are still there"


def test_chunks_that_a_manifest_asked_for_are_not_pushed_out() -> None:
    inbox = Inbox(TASK, unclaimed_bytes_max=CHUNK_BYTES_MAX)
    put(inbox, LINE[1])
    put(inbox, LINE[1], 0)
    put(inbox, LINE[1], 1)
    for index in range(10):
        inbox.chunk(9, index, bytes([index]) * CHUNK_BYTES_MAX)
    assert isinstance(put(inbox, LINE[1], 2), NewModel)


def test_a_broken_chunk_gives_one_warning_and_a_sound_one_heals_it() -> None:
    inbox = Inbox(TASK)
    put_all(inbox, LINE[0])
    put(inbox, LINE[1])
    outcomes = [inbox.chunk(1, 0, b"broken"), inbox.chunk(1, 0, b"broken"), inbox.chunk(1, 1, b"broken too")]
    assert [isinstance(outcome, Rejected) for outcome in outcomes] == [True, False, False]
    assert version_of(inbox) == 0
    for index in range(3):
        put(inbox, LINE[1], index)
    assert version_of(inbox) == 1


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\0nonsense", "could not be read"),
        (codec.encode(model(1, task="swimming").manifest), "task 'swimming'"),
        (codec.encode(msgspec.structs.replace(model(1).manifest, inline=b"junk")), "could not be used"),
        (codec.encode(msgspec.structs.replace(model(1).manifest, digest=bytes(32))), "could not be used"),
        (codec.encode(msgspec.structs.replace(LINE[1].manifest, size_bytes=1 << 40)), "over the limit"),
    ],
)
def test_a_bad_manifest_is_a_warning_and_the_held_model_stays(payload: bytes, words: str) -> None:
    inbox = Inbox(TASK)
    put(inbox, model(0))
    outcome = inbox.manifest(payload)
    assert isinstance(outcome, Rejected)
    assert words in outcome.reason
    assert version_of(inbox) == 0


def test_a_version_that_was_broken_and_is_announced_again_soundly_is_taken() -> None:
    inbox = Inbox(TASK)
    broken = codec.encode(msgspec.structs.replace(model(1).manifest, inline=b"junk"))
    assert isinstance(inbox.manifest(broken), Rejected)
    assert inbox.manifest(broken) is None, "one warning"
    assert isinstance(put(inbox, model(1)), NewModel)


def test_cleared_retained_messages_say_nothing() -> None:
    inbox = Inbox(TASK)
    put(inbox, model(1))
    assert inbox.manifest(b"") is None
    assert inbox.chunk(1, 0, b"") is None
    assert version_of(inbox) == 1


def test_the_held_version_announced_again_brings_the_newest_limits() -> None:
    inbox = Inbox(TASK)
    put(inbox, model(1))
    assert put(inbox, model(1, update_bytes_max=77, shards=5)) is None
    assert inbox.held is not None
    assert (inbox.held.manifest.update_bytes_max, inbox.held.manifest.shards) == (77, 5)
