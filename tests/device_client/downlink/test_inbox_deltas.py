"""By deltas or by a snapshot, whichever is cheaper; never wrong weights, and at the newest version when all is here."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_client.downlink.download_plan import PATIENCE_VERSIONS, Wanted
from device_client.downlink.inbox import Inbox
from device_client.downlink.outcome import NewModel, Rejected
from tests.device_client.downlink.downlink_line import LAYOUT, Retained, announced, large_deltas, rejections, shelves
from tests.device_client.stage import TASK
from wire_contract import codec
from wire_contract.encoding import Float32, encode_vector
from wire_contract.layout import Layout, TensorSpec
from wire_contract.messages import Delta, Manifest
from wire_contract.publication.release import Release

LINE = shelves(30)
OTHER = shelves(30, seed=9, published_at=50_000.0)
"""A new line with the same version numbers."""
KEYED = shelves(12, keys=(5,))
LARGE = large_deltas(12)


def manifest(shelf: Release, **changes: Any) -> bytes:
    return codec.encode(msgspec.structs.replace(announced(shelf).manifest, **changes))


def holding(shelf: Release) -> Inbox:
    """An inbox that has this version, as after a restart."""
    inbox, retained = Inbox(TASK), Retained()
    retained.publish(shelf)
    retained.give(inbox)
    assert held(inbox) == shelf.version
    return inbox


def held(inbox: Inbox) -> int | None:
    """Its version; its weights are those of that version, or the test ends here."""
    if inbox.held is None:
        return None
    published = inbox.held.published
    lines = (LINE, OTHER, KEYED, LARGE)
    line = next(line for line in lines if any(one.published.digest == published.digest for one in line))
    assert published.weights.tobytes() == line[published.version].published.weights.tobytes()
    return published.version


def test_a_device_that_follows_gets_one_message_a_version() -> None:
    inbox = holding(LINE[3])
    for shelf in LINE[4:]:
        assert isinstance(inbox.manifest(manifest(shelf)), NewModel)
        assert (held(inbox), inbox.wanted, inbox.is_behind) == (shelf.version, Wanted(), False)


def test_what_is_held_is_a_whole_manifest_for_the_cache() -> None:
    inbox = holding(LINE[3])
    inbox.manifest(manifest(LINE[4]))
    assert inbox.held is not None
    cached = codec.decode(codec.encode(inbox.held.manifest), type(inbox.held.manifest))
    assert (cached.version, cached.parent, cached.digest) == (4, 3, LINE[4].published.digest)
    assert cached.inline == LINE[4].model, "the very message that a snapshot of it would be"
    other = Inbox(TASK)
    assert isinstance(other.announced(cached), NewModel)
    assert held(other) == 4
    assert isinstance(other.manifest(manifest(LINE[5])), NewModel), "and it goes on from there"


@pytest.mark.parametrize("behind", [1, 2, 3, 8])
def test_a_device_a_few_versions_behind_takes_the_deltas(behind: int) -> None:
    inbox, retained = holding(LINE[20 - behind]), Retained()
    retained.publish(LINE[20])
    inbox.manifest(retained.manifest)
    assert inbox.wanted == Wanted(deltas=tuple(range(20 - behind + 1, 20)))
    _, size_bytes = retained.give(inbox)
    assert held(inbox) == 20
    assert size_bytes < len(retained.manifest) + sum(map(len, retained.deltas.values()))
    assert inbox.wanted == Wanted()


@pytest.mark.parametrize("behind", [9, 16, 20])
def test_a_device_far_behind_takes_the_snapshot_and_the_deltas_after_it(behind: int) -> None:
    inbox, retained = holding(LINE[20 - behind]), Retained()
    retained.publish(LINE[20])
    inbox.manifest(retained.manifest)
    assert inbox.wanted == Wanted(deltas=(17, 18, 19), snapshot=16)
    retained.give(inbox)
    assert held(inbox) == 20


def test_the_cheaper_way_is_taken() -> None:
    inbox, retained = holding(LINE[12]), Retained()
    retained.publish(LINE[20])
    costly = announced(LINE[20]).manifest
    sizes = (costly.delta_sizes[0], *[30_000] * 7)
    inbox.manifest(codec.encode(msgspec.structs.replace(costly, delta_sizes=sizes)))
    assert inbox.wanted == Wanted(deltas=(17, 18, 19), snapshot=16), (
        "3 large deltas and a snapshot beside 7 large deltas"
    )


def test_a_joiner_holds_the_snapshot_when_the_deltas_do_not_come() -> None:
    inbox = Inbox(TASK)
    sent = announced(LINE[20])
    inbox.manifest(codec.encode(sent.manifest))
    outcomes = [inbox.chunk(16, index, chunk) for index, chunk in enumerate(sent.chunks)]
    assert isinstance(outcomes[-1], NewModel)
    assert (held(inbox), inbox.is_behind, inbox.wanted) == (16, True, Wanted(deltas=(17, 18, 19)))


def test_a_key_version_is_taken_whole_and_followed_from_there() -> None:
    inbox, retained = holding(KEYED[4]), Retained()
    for shelf in KEYED[5:]:
        retained.publish(shelf)
        outcomes, _ = retained.give(inbox)
        assert not rejections(outcomes)
        assert held(inbox) == shelf.version


def test_deltas_that_do_not_come_are_not_waited_for() -> None:
    inbox, retained = holding(LINE[17]), Retained()
    for shelf in LINE[19 : 19 + PATIENCE_VERSIONS]:
        retained.publish(shelf)
        del retained.deltas[18]
        retained.give(inbox)
        assert held(inbox) == 17
    retained.publish(LINE[25])
    del retained.deltas[18]
    retained.give(inbox)
    assert held(inbox) == 25, "by way of the snapshot"


def test_a_new_line_with_the_same_numbers_is_not_followed_by_the_deltas_of_the_old() -> None:
    for version in (15, 20, 24):
        inbox, retained = holding(LINE[20]), Retained()
        retained.publish(OTHER[version])
        outcomes, _ = retained.give(inbox)
        assert not rejections(outcomes)
        assert inbox.held is not None
        assert inbox.held.published.digest == OTHER[version].published.digest
        assert inbox.manifest(manifest(LINE[20])) is None, "the dead line does not come back"


# Whatever is wrong, the snapshot is the way round it.


def broken(case: str) -> bytes:
    """The delta to version 18, not as it should be."""
    whole = announced(LINE[20]).deltas[18]
    delta = codec.decode(whole, Delta)
    layout = Layout((TensorSpec("other", (7,)),))
    forged: dict[str, dict[str, Any]] = {
        "wrong parent": {"parent_digest": bytes(32)},
        "wrong result": {"digest": bytes(32)},
        "other weights": {"tensors": encode_vector(np.ones(LAYOUT.size, dtype=np.float32), LAYOUT, "int4")},
        "not finite": {
            "tensors": tuple(Float32(np.full(spec.size, np.nan, "<f4").tobytes()) for spec in LAYOUT.tensors)
        },
        "foreign layout": {"tensors": encode_vector(np.ones(7, dtype=np.float32), layout, "int8")},
        "another version": {"version": 19},
        "another task": {"task": "swimming"},
        "another grid": {"grid": "float32"},
    }
    if case == "cut":
        return whole[:-5]
    return codec.encode(msgspec.structs.replace(delta, **forged[case]))


@pytest.mark.parametrize(
    "case",
    [
        "cut",
        "wrong parent",
        "wrong result",
        "other weights",
        "not finite",
        "foreign layout",
        "another version",
        "another task",
        "another grid",
    ],
)
def test_a_broken_delta_is_gone_round_by_a_later_snapshot(case: str) -> None:
    inbox, retained = holding(LINE[16]), Retained()
    reasons: list[str] = []
    for version in (20, 20, 25):
        retained.publish(LINE[version])
        if 18 in retained.deltas:
            retained.deltas[18] = broken(case)
        outcomes, _ = retained.give(inbox)
        reasons += rejections(outcomes)
        assert held(inbox) in {16, 17, version}, "the held version or a newer one, never wrong weights"
    assert held(inbox) == 25
    assert len(reasons) <= 2, "no flood"
    assert all("\n" not in reason for reason in reasons)


def test_a_broken_delta_inside_a_manifest_sends_it_to_the_snapshot() -> None:
    for case in ("wrong parent", "other weights", "not finite"):
        inbox = holding(LINE[15])
        made = announced(LINE[16])
        assert LINE[16].is_snapshot
        delta = codec.decode(made.deltas[16], Delta)
        changes: dict[str, Any] = {"wrong parent": {"parent_digest": bytes(32)}}.get(
            case, {"tensors": codec.decode(broken(case), Delta).tensors if case != "wrong parent" else ()}
        )
        forged = codec.encode(msgspec.structs.replace(delta, **changes))
        outcome = inbox.manifest(codec.encode(msgspec.structs.replace(made.manifest, delta=forged)))
        assert not isinstance(outcome, NewModel)
        assert (held(inbox), inbox.wanted) == (15, Wanted(snapshot=16))
        for index, chunk in enumerate(made.chunks):
            inbox.chunk(16, index, chunk)
        assert (held(inbox), inbox.wanted) == (16, Wanted())


def test_a_delta_too_large_for_the_manifest_is_asked_for() -> None:
    line = LARGE
    inbox, retained = holding(line[3]), Retained()
    for shelf in line[4:9]:
        retained.publish(shelf)
        assert codec.decode(retained.manifest, Manifest).delta is None
        inbox.manifest(retained.manifest)
        assert (held(inbox), inbox.wanted) == (shelf.version - 1, Wanted((shelf.version,)))
        outcome = inbox.delta(shelf.version, retained.deltas[shelf.version])
        assert isinstance(outcome, NewModel)
        assert outcome.published.digest == shelf.published.digest
        assert (held(inbox), inbox.wanted) == (shelf.version, Wanted())
    retained.publish(line[12])
    retained.give(inbox)
    assert held(inbox) == 12
    joiner = Inbox(TASK)  # the snapshot, and the deltas after it
    retained.give(joiner)
    assert held(joiner) == 12


def test_a_large_delta_that_the_broker_has_not_gives_way_to_the_snapshot() -> None:
    line = LARGE
    inbox, retained = holding(line[7]), Retained()
    for shelf in line[8:11]:
        retained.publish(shelf)
        retained.deltas.clear()
        retained.give(inbox)
    assert held(inbox) == line[10].snapshot_version


def test_nothing_grows_whatever_comes() -> None:
    inbox = holding(LINE[3])
    delta = codec.decode(announced(LINE[4]).deltas[4], Delta)
    for number in range(500):
        forged = msgspec.structs.replace(delta, version=4 + number, digest=number.to_bytes(32, "big"))
        inbox.delta(4 + number, codec.encode(forged))
        inbox.delta(4 + number, b"junk %d" % number)
        inbox.manifest(manifest(LINE[4], version=2**40 + number, delta_sizes=(1,) * 8))
    assert len(inbox._deltas._deltas) <= 16
    assert len(inbox._snapshots._candidates) <= 4
    assert len(inbox._delta_topics.closed) <= 8
    assert len(inbox._delta_topics.wanted_since) <= 8
    assert len(inbox._broken) <= 64


def test_a_manifest_of_far_away_numbers_costs_no_time() -> None:
    inbox = holding(LINE[3])
    outcome = inbox.manifest(manifest(LINE[4], version=2**53, snapshot=2**53 - 3, delta_sizes=(1,) * 8, delta=None))
    assert not isinstance(outcome, NewModel)
    assert len(inbox.wanted.deltas) <= 8


def pieces(line: list[Release], versions: list[int]) -> list[tuple[str, int, int, bytes]]:
    """Every message that stood on the broker for these versions."""
    found: dict[tuple[str, int, int], bytes] = {}
    for version in versions:
        sent = announced(line[version])
        found["manifest", version, 0] = codec.encode(sent.manifest)
        for one, payload in sent.deltas.items():
            found["delta", one, 0] = payload
        for index, chunk in enumerate(sent.chunks):
            found["chunk", sent.manifest.snapshot_version, index] = chunk
    return [(*key, payload) for key, payload in found.items()]


def put(inbox: Inbox, piece: tuple[str, int, int, bytes]) -> Any:
    kind, version, index, payload = piece
    if kind == "manifest":
        return inbox.manifest(payload)
    return inbox.delta(version, payload) if kind == "delta" else inbox.chunk(version, index, payload)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_in_any_order_twice_lost_or_corrupted_it_never_holds_wrong_weights(data: st.DataObject) -> None:
    line = data.draw(st.sampled_from([LINE, KEYED, LARGE]))
    versions = sorted(data.draw(st.sets(st.integers(0, 12), min_size=1, max_size=4)))
    there = pieces(line, versions)
    numbers = st.integers(0, len(there) - 1)
    spoilt = data.draw(st.dictionaries(numbers, st.integers(0, 2**16), max_size=4))
    order = data.draw(st.permutations([*range(len(there)), *(~number for number in spoilt)]))
    lost = data.draw(st.sets(st.sampled_from(order), max_size=4))
    start = data.draw(st.sampled_from([None, 0, 3]))
    inbox = Inbox(TASK) if start is None else holding(line[start])
    seen = [held(inbox)]
    for number in order:
        if number in lost:
            continue
        kind, version, index, payload = there[number if number >= 0 else ~number]
        if number < 0:  # one bit is wrong
            at = spoilt[~number] % len(payload)
            payload = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        outcome = put(inbox, (kind, version, index, payload))
        if isinstance(outcome, NewModel):
            seen.append(held(inbox))
        elif isinstance(outcome, Rejected):
            assert spoilt, outcome.reason
            assert "\n" not in outcome.reason
    told = [version for version in seen if version is not None]
    assert told == sorted(set(told)), "never an older one after a newer one, each once"
    # A broker that is asked again hands over what it has retained.
    retained = Retained()
    for version in range(versions[-1] + 1):
        retained.publish(line[version])
    retained.give(inbox)
    retained.give(inbox)  # deltas that did not come for PATIENCE_VERSIONS are asked for when the manifest comes again
    assert held(inbox) == max(versions[-1], start or 0)
