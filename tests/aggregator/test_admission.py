"""Each update is merged once or refused for a named reason; the known mistakes of other implementations stay out."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from aggregator.admission import (
    INCARNATIONS_KEPT,
    AdmissionPolicy,
    Duplicate,
    Merge,
    Refuse,
)
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.records import row_of
from aggregator.ledger.restoring import restore
from aggregator.merging.staleness import ABSENCE_MAX
from aggregator.model_line import opening_release
from aggregator.receipts import receipt_for
from tests.aggregator.bench import Bench
from tests.aggregator.synthetic import LAYOUT, SETTINGS, T0, TASK, SyntheticDevice, begin, identities
from wire_contract.codec import encode
from wire_contract.encoding import Float32, Int8
from wire_contract.layout import Layout, TensorSpec, digest
from wire_contract.messages import Presence
from wire_contract.topics import parse, shard_of

ONES = np.ones(LAYOUT.size, dtype=np.float32)


ROOMY = replace(SETTINGS, updates_per_version=20, policy=AdmissionPolicy(slot_norm_ratio=inf, samples_ratio_max=2.0))
"""What devices send is neither scaled down nor cut for the sake of others (`test_peers.py` has that)."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "ledger.sqlite3", ROOMY)
    yield made
    made.ledger.close()


@pytest.fixture
def device() -> SyntheticDevice:
    return SyntheticDevice("watch-1")


def test_every_reason_can_be_reached(bench: Bench, device: SyntheticDevice) -> None:
    other = Layout((TensorSpec("weight", (4, 3)), TensorSpec("bias", (4,))))
    whole = (Float32(bytes(48)), Float32(bytes(16)))
    assert bench.reason(device, layout_fingerprint=other.fingerprint) == "layout"
    assert bench.reason(device, base_digest=bytes(32)) == "unknown_base"
    assert bench.reason(device, base_version=5) == "unknown_base", "a version that does not exist yet"
    assert bench.reason(device, difference=ONES * 1e5) == "norm"
    for value in (np.nan, np.inf, -np.inf):
        bad = ONES.copy()
        bad[3] = value
        assert bench.reason(device, tensors=(Float32(bad[:12].tobytes()), whole[1])) == "not_finite"
    assert bench.reason(device, tensors=(Int8(3e38, b"\x7f" * 12), whole[1])) == "not_finite"
    assert bench.reason(device, tensors=whole[:1]) == "malformed"
    assert bench.reason(device, tensors=(Float32(bytes(44)), whole[1])) == "malformed"
    assert bench.reason(device, tensors=(Int8(float("nan"), bytes(12)), whole[1])) == "malformed"
    assert not bench.line.buffer.slots
    assert not identities(bench.path)


def test_what_is_too_stale_is_refused(tmp_path: Path, device: SyntheticDevice) -> None:
    bench = Bench(tmp_path / "l", replace(SETTINGS, policy=AdmissionPolicy(staleness_max=1)))
    first = device.update(bench.line)
    for number in range(2):
        bench.verdict(device)
        bench.next_version()
        stale = structs.replace(first, device="late", sequence=number + 1)
        verdict = bench.give(SyntheticDevice("late"), encode(stale)).verdict
        assert isinstance(verdict, Refuse if number else Merge)
    assert isinstance(verdict, Refuse)
    assert verdict.reason == "too_stale"
    bench.ledger.close()


def test_payloads_that_are_no_updates(bench: Bench, device: SyntheticDevice) -> None:
    def reason(payload: bytes) -> str:
        judged = bench.give(device, payload)
        assert judged.update is None
        assert isinstance(judged.verdict, Refuse)
        return judged.verdict.reason

    assert reason(b"") == "malformed"
    assert reason(b"\0" * 100) == "malformed"
    assert reason(device.payload(bench.line)[:-7]) == "malformed"
    assert reason(encode(Presence(status="online"))) == "malformed"
    assert reason(bytes(2_000_000)) == "too_large"
    # Decompressed size is bounded by the layout: a small model cannot be sent 64 MB.
    assert reason(device.payload(bench.line, tensors=(Float32(bytes(200_000)),))) == "too_large"
    assert reason(device.payload(bench.line, device="watch-2")) == "malformed"
    assert reason(device.payload(bench.line, task="another")) == "malformed"


def test_an_update_of_another_shard_is_kept_by_its_device_and_not_remembered(tmp_path: Path) -> None:
    """It was in flight when --shards was changed. One that was merged before that is still known to be."""
    mine = next(name for name in map(str, range(9)) if shard_of(name, 2) == 0)
    foreign = SyntheticDevice(next(name for name in map(str, range(9)) if shard_of(name, 2) == 1))
    bench = Bench(tmp_path / "l")
    first = foreign.payload(bench.line)
    assert isinstance(bench.give(foreign, first).verdict, Merge)
    second = foreign.payload(bench.line)
    bench.ledger.close()

    bench = Bench(tmp_path / "l", replace(SETTINGS, policy=AdmissionPolicy(shard=0, shards=2)))
    assert isinstance(bench.verdict(SyntheticDevice(mine)), Merge)
    for _ in range(2):
        judged = bench.give(foreign, second)
        assert isinstance(judged.verdict, Refuse)
        assert (judged.verdict.reason, judged.verdict.seen_before) == ("rate", False)
        assert judged.verdict.detail.startswith("shard: ")
        receipt = receipt_for(judged.verdict, version=judged.version, update=judged.update, payload=second)
        assert receipt.payload_digest
    assert isinstance(bench.give(foreign, first).verdict, Duplicate)
    topic = parse(f"fedkd/v1/{TASK}/update/1/{mine}", root="fedkd/v1")
    assert isinstance(bench.line.judge(topic, SyntheticDevice(mine).payload(bench.line)).verdict, Refuse)
    bench.ledger.close()

    bench = Bench(tmp_path / "l")  # the shards are as they were before
    assert isinstance(bench.give(foreign, second).verdict, Merge)
    bench.ledger.close()


def test_an_update_that_comes_again_is_a_duplicate(bench: Bench, device: SyntheticDevice) -> None:
    payloads = [device.payload(bench.line) for _ in range(3)]
    assert all(isinstance(bench.give(device, payload).verdict, Merge) for payload in payloads)
    before = bench.line.next_step().weights.tobytes()
    for payload in reversed(payloads):
        assert bench.give(device, payload).verdict == Duplicate()
    assert bench.line.next_step().weights.tobytes() == before
    bench.next_version()
    assert all(bench.give(device, payload).verdict == Duplicate() for payload in payloads)
    assert not bench.line.buffer.slots


def test_what_was_refused_is_refused_again_but_counted_once(bench: Bench, device: SyntheticDevice) -> None:
    payload = device.payload(bench.line, difference=ONES * 1e5)
    first = bench.give(device, payload).verdict
    assert isinstance(first, Refuse)
    assert (first.reason, first.seen_before) == ("norm", False)
    again = bench.give(device, payload).verdict
    assert isinstance(again, Refuse)
    assert (again.reason, again.seen_before) == ("norm", True)
    count = bench.ledger._db.execute("SELECT outcome, reason, count FROM counter ORDER BY outcome").fetchall()
    assert ("refused", "norm", 1) in count


def test_a_reinstalled_device_begins_anew_and_its_old_messages_stay_duplicates(bench: Bench) -> None:
    old = SyntheticDevice("watch-1", incarnation=b"old-life")
    sent = [old.payload(bench.line) for _ in range(3)]
    for payload in sent:
        bench.give(old, payload)
    new = SyntheticDevice("watch-1", incarnation=b"new-life")
    assert isinstance(bench.verdict(new), Merge), "sequence 1 again, but of another incarnation"
    for payload in sent:
        assert bench.give(old, payload).verdict == Duplicate()
    assert bench.line.devices == 1


def test_the_late_message_of_a_forgotten_incarnation_is_a_duplicate(bench: Bench) -> None:
    first = SyntheticDevice("watch-1", incarnation=b"life-000")
    payload = first.payload(bench.line)
    assert isinstance(bench.give(first, payload).verdict, Merge)
    for life in range(1, INCARNATIONS_KEPT + 5):
        assert isinstance(bench.verdict(SyntheticDevice("watch-1", incarnation=b"life-%03d" % life)), Merge)
    assert len(bench.ledger.last_of_devices()) == INCARNATIONS_KEPT
    again = [bench.give(first, payload).verdict for _ in range(2)]
    assert again == [Duplicate(), Duplicate()], "or the journal would break the aggregator at every delivery"
    assert isinstance(bench.verdict(first), Merge), "its next one is welcome"


def test_receipts_name_what_they_answer(bench: Bench, device: SyntheticDevice) -> None:
    update = device.update(bench.line)
    judged = bench.give(device, encode(update))
    receipt = receipt_for(judged.verdict, version=3, update=judged.update, payload=b"")
    assert (receipt.incarnation, receipt.sequence) == (update.incarnation, update.sequence)
    assert (receipt.outcome, receipt.weight, receipt.staleness, receipt.version) == ("merged", 1.0, 0, 3)
    unread = receipt_for(Refuse("malformed", "why"), version=3, update=None, payload=b"abc")
    assert unread.payload_digest.hex() == "ba7816bf8f01cfea"
    assert (unread.incarnation, unread.reason, unread.detail) == (b"", "malformed", "why")


def test_a_fresh_update_is_never_halved(bench: Bench, device: SyntheticDevice) -> None:
    # "Staleness" from a version counter that was already raised gives 2^-½ or less to everybody.
    for _ in range(3):
        assert bench.verdict(device) == Merge(weight=1.0, staleness=0)
        bench.next_version()


def test_staleness_is_of_the_base_in_the_message(bench: Bench, device: SyntheticDevice) -> None:
    late = SyntheticDevice("late")
    bench.verdict(late)
    bench.next_version()
    early = late.payload(bench.line)
    for _ in range(3):
        bench.verdict(device)
        bench.next_version()
    # It had a part in the one before those three, so that with the next one four go by.
    assert bench.give(late, early).verdict == Merge(weight=4**-0.5 * 4, staleness=3)


def test_a_slow_device_has_the_same_say_over_time_as_a_fast_one(bench: Bench) -> None:
    said: Counter[str] = Counter()
    fast, slow = SyntheticDevice("fast"), SyntheticDevice("slow")
    for version in range(31):
        for device in (fast, slow) if version % 5 == 0 else (fast,):
            verdict = bench.verdict(device)
            assert isinstance(verdict, Merge)
            said[device.name] += round(verdict.weight)
        bench.next_version()
    assert said["slow"] == said["fast"] == 31


def test_an_absence_counts_up_to_its_bound(bench: Bench, device: SyntheticDevice) -> None:
    late = SyntheticDevice("late")
    bench.verdict(late)
    bench.next_version()
    for _ in range(2 * ABSENCE_MAX):
        bench.verdict(device)
        bench.next_version()
    assert bench.verdict(late) == Merge(weight=ABSENCE_MAX, staleness=0)
    assert bench.verdict(late) == Merge(weight=ABSENCE_MAX, staleness=0), "the same version, the same absence"
    bench.next_version()
    assert bench.verdict(late) == Merge(weight=1.0, staleness=0)


def test_a_restart_knows_who_was_absent(bench: Bench) -> None:
    fast, late, away = SyntheticDevice("fast"), SyntheticDevice("late"), SyntheticDevice("away")
    for version in range(1, 2 * ABSENCE_MAX):
        bench.verdict(fast)
        if version == 2 * ABSENCE_MAX - 5:
            bench.verdict(late)
        if version == 1:
            bench.verdict(away)
        bench.next_version()
    assert bench.verdict(fast) == Merge(weight=1.0, staleness=0)
    bench.line = restore(bench.ledger, ROOMY)
    assert bench.verdict(fast) == Merge(weight=1.0, staleness=0), "what waits in the buffer is no version yet"
    assert bench.verdict(late) == Merge(weight=5.0, staleness=0)
    assert bench.verdict(away) == Merge(weight=ABSENCE_MAX, staleness=0)
    assert bench.verdict(SyntheticDevice("new")) == Merge(weight=1.0, staleness=0)


def test_the_rate_of_learning_does_not_decay_with_versions(bench: Bench, device: SyntheticDevice) -> None:
    start = bench.line.weights.copy()
    for version in range(1, 31):
        bench.verdict(device, difference=ONES)
        bench.next_version()
        assert np.allclose(bench.line.weights, start + version, atol=1e-4)


def test_stale_updates_alone_still_teach_in_full(bench: Bench, device: SyntheticDevice) -> None:
    # Weights that are not renormalised would shrink the step of a buffer of stale updates.
    early = SyntheticDevice("late").update(bench.line, difference=ONES)
    for _ in range(8):
        bench.verdict(device, difference=0 * ONES)
        bench.next_version()
    before = bench.line.weights.copy()
    assert isinstance(bench.give(SyntheticDevice("late"), encode(early)).verdict, Merge)
    bench.next_version()
    assert np.allclose(bench.line.weights, before + 1, atol=1e-5)


def test_differences_are_added_not_weights_averaged(bench: Bench) -> None:
    # Two devices from different bases: a mean of full weights, or a difference to the current model instead of the
    # base, would take back what the first one taught.
    start = bench.line.weights.copy()
    late = SyntheticDevice("late").update(bench.line, difference=2 * ONES)
    bench.verdict(SyntheticDevice("early"), difference=ONES)
    bench.next_version()
    bench.give(SyntheticDevice("late"), encode(late))
    bench.next_version()
    assert np.allclose(bench.line.weights, start + 3, atol=1e-5)


def test_samples_weigh_one_device_against_another(bench: Bench) -> None:
    much, usual, little = (SyntheticDevice(name) for name in ("much", "usual", "little"))
    start = bench.line.weights.copy()
    for device, samples in ((much, 15), (usual, 10), (little, 5)):
        assert bench.verdict(device, difference=0 * ONES, samples=samples) == Merge(weight=1.0, staleness=0), (
            "nobody knows yet what is much"
        )
    bench.next_version()
    bench.verdict(much, difference=ONES, samples=15)
    bench.verdict(usual, difference=0 * ONES, samples=10)
    bench.verdict(little, difference=-ONES, samples=5)
    bench.next_version()
    assert np.allclose(bench.line.weights, start + (1.5 - 0.5) / 3, atol=1e-5)


def test_updates_that_overflow_only_when_weighed_never_reach_the_model(tmp_path: Path) -> None:
    # Initial weights near the end of float32 would allow any norm.
    layout = Layout((TensorSpec("a", (2,)),))
    ledger = Ledger(tmp_path / "l", task=TASK)
    weights = np.full(2, 1e38, dtype=np.float32)
    first = opening_release(SETTINGS, layout, weights, published_at=T0)
    ledger.begin_line(row_of(first), layout, weights)
    line = begin(ledger, ROOMY)
    device = SyntheticDevice("d", layout)
    large = device.payload(line, difference=np.full(2, 1e30, dtype=np.float32), samples=2**53)
    refused = line.judge(device.parsed, large).verdict
    assert isinstance(refused, Refuse)
    assert refused.reason == "norm"
    for _ in range(10):
        most = device.payload(line, difference=np.full(2, 7e14, dtype=np.float32), samples=2**53)
        assert isinstance(line.judge(device.parsed, most).verdict, Merge)
    assert np.isfinite(line.next_step().weights).all()
    assert row_of(first).digest == digest(weights)
    ledger.close()
