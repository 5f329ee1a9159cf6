"""A device with pinned keys believes what they have signed, nothing older than that, and goes on with what it has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from device_client.downlink.inbox import Inbox
from device_client.downlink.model_trust import CLOCK_SKEW_SECONDS, ModelTrust, TrustedVersion, VolatileTrustMemory
from device_client.downlink.outcome import NewModel, Rejected
from device_client.downlink.receiver import ModelReceiver
from tests.device_client.downlink.downlink_line import announced, shelves
from tests.device_client.stage import DEVICE, ROOT, TASK, Kill, Stage, model
from tests.wire_contract.keys import key
from wire_contract import codec, topics
from wire_contract.errors import DecodeError
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.messages import Delta, Manifest, Signed, Update
from wire_contract.signatures.envelope import read_unverified, unwrap
from wire_contract.signatures.signing import SigningKey, sign, verified_signers

OLD, NEW, FOREIGN = key(1), key(2), key(3)
NOW = 1_000_000.0


def trusting(*pinned: SigningKey, memory: Any = None, now: Callable[[], float] = lambda: NOW) -> ModelTrust:
    keys = [one.public for one in pinned or (OLD,)]
    return ModelTrust(keys, task=TASK, memory=memory or VolatileTrustMemory(), unix=now)


def manifest(version: int, **changes: Any) -> Manifest:
    seed = changes.pop("seed", 0)
    return structs.replace(model(version, seed=seed).manifest, **changes)


def spoilt(payload: bytes) -> bytes:
    signed = codec.decode(payload, Signed)
    body = bytearray(signed.body)
    body[-1] ^= 1
    return codec.encode(structs.replace(signed, body=bytes(body)))


HOSTILE = {
    "not signed": (codec.encode(manifest(9)), "it is not signed"),
    "unknown key": (sign(manifest(9), [FOREIGN]), f"signed by {FOREIGN.public.key_id.hex()}, which is no key"),
    "bad signature": (spoilt(sign(manifest(9), [OLD])), "is wrong: other bytes were signed"),
    "expired": (sign(manifest(9, expires_at=NOW - 3_600), [OLD]), "version 9 expired 3600 s ago"),
    "another task's": (sign(manifest(9, task="running"), [OLD]), "it is of task 'running', not 'walking'"),
    "older": (
        sign(manifest(4), [OLD]),
        "version 5 was announced before; if the aggregator continues with an older or a new ledger",
    ),
    "another of that version": (sign(manifest(5, seed=1), [OLD]), "version 5 was announced before with other weights"),
    "no message": (b"nonsense", "could not be read: frame: not an LZ4 frame"),
    "a signed nothing": (
        codec.encode(Signed(body=b"", signatures=codec.decode(sign(manifest(9), [OLD]), Signed).signatures)),
        "is wrong: other bytes",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_each_refusal_is_one_line_and_changes_nothing(name: str) -> None:
    payload, said = HOSTILE[name]
    memory = VolatileTrustMemory()
    receiver = ModelReceiver(
        MemoryLink(MemoryBroker(), DEVICE), root=ROOT, task=TASK, trust=trusting(OLD, memory=memory)
    )
    topic = topics.parse(topics.build("model", root=ROOT, task=TASK), root=ROOT)
    assert isinstance(receiver.take(topic, sign(manifest(5), [OLD])), NewModel)
    believed, held = memory.trusted_version(), receiver.held
    outcome = receiver.take(topic, payload)
    assert isinstance(outcome, Rejected)
    assert said in outcome.reason
    assert "\n" not in outcome.reason
    assert (memory.trusted_version(), receiver.held) == (believed, held)
    assert isinstance(receiver.take(topic, sign(manifest(6), [OLD])), NewModel), "and the next good one is taken"


def test_a_clock_may_be_wrong_by_so_much() -> None:
    now = NOW
    trust = trusting(now=lambda: now)
    payload = sign(manifest(1, expires_at=NOW), [OLD])
    for late in (0.0, CLOCK_SKEW_SECONDS):
        now = NOW + late
        assert trust.read(payload).version == 1
    now = NOW + CLOCK_SKEW_SECONDS + 1
    with pytest.raises(DecodeError, match="expired 301 s ago"):
        trust.read(payload)
    assert trust.read(sign(manifest(1, expires_at=now + 60), [OLD])).version == 1, "the same one, announced afresh"


def test_rotation_old_both_new_for_devices_old_and_new() -> None:
    """The order of docs/signing.md: at no step is there a device that refuses the newest model."""
    first, both, last = VolatileTrustMemory(), VolatileTrustMemory(), VolatileTrustMemory()
    only_old, pins_both, only_new = (
        trusting(OLD, memory=first),
        trusting(OLD, NEW, memory=both),
        trusting(NEW, memory=last),
    )
    for version, signing in ((1, [OLD]), (2, [OLD, NEW]), (3, [NEW, OLD])):
        assert only_old.read(sign(manifest(version), signing)).version == version
    for version, signing in ((1, [OLD]), (2, [OLD, NEW]), (3, [NEW])):
        assert pins_both.read(sign(manifest(version), signing)).version == version
    for version, signing in ((2, [OLD, NEW]), (3, [NEW])):
        assert only_new.read(sign(manifest(version), signing)).version == version
    with pytest.raises(DecodeError, match="no key that is known here"):
        only_old.read(sign(manifest(4), [NEW]))


def test_what_was_believed_survives_the_exchange_of_a_key_that_overlaps() -> None:
    memory = VolatileTrustMemory()
    trust = trusting(OLD, NEW, memory=memory)
    trust.read(sign(manifest(7), [OLD]))
    trust.read(sign(manifest(7), [NEW]))  # the same version, announced again by an aggregator with the new key
    assert memory.trusted_version() == TrustedVersion(
        7, manifest(7).digest, frozenset({OLD.public.key_id, NEW.public.key_id})
    )
    with pytest.raises(DecodeError, match="version 7 was announced before"):
        trusting(NEW, memory=memory).read(sign(manifest(6), [NEW]))


def test_the_word_of_a_key_that_is_pinned_no_more_does_not_count() -> None:
    """The way out when a stolen key has signed version 2^53."""
    memory = VolatileTrustMemory()
    trusting(OLD, memory=memory).read(sign(manifest(2**53, published_at=2.0**40), [OLD]))
    with pytest.raises(DecodeError, match="announced before"):
        trusting(OLD, NEW, memory=memory).read(sign(manifest(8), [NEW]))
    assert trusting(NEW, memory=memory).read(sign(manifest(8), [NEW])).version == 8


def test_another_task_signed_by_the_same_key_does_not_raise_the_bar() -> None:
    memory = VolatileTrustMemory()
    trust = trusting(memory=memory)
    with pytest.raises(DecodeError, match="task"):
        trust.read(sign(manifest(1_000, task="running"), [OLD]))
    with pytest.raises(DecodeError, match="expired"):
        trust.read(sign(manifest(1_000, expires_at=1.0), [OLD]))
    assert memory.trusted_version() is None
    assert trust.read(sign(manifest(1), [OLD])).version == 1


# What is not signed itself: chunks and older deltas. All must end in what the signed manifest states.


def test_deltas_and_chunks_of_an_attacker_give_no_weights() -> None:
    line, forged = [announced(shelf) for shelf in shelves(6)], announced(shelves(6, seed=5)[6])
    receiver = ModelReceiver(MemoryLink(MemoryBroker(), DEVICE), root=ROOT, task=TASK, trust=trusting())

    def take(kind: topics.Kind, payload: bytes, **parts: int) -> Any:
        topic = topics.parse(topics.build(kind, root=ROOT, task=TASK, **parts), root=ROOT)
        return receiver.take(topic, payload)

    # A whole line of the attacker's: sound in itself, its deltas link up, and nobody has signed it.
    for index, chunk in enumerate(forged.chunks):
        take("chunk", chunk, version=0, chunk=index)
    for version, delta in forged.deltas.items():
        take("delta", delta, version=version)
    assert isinstance(take("model", codec.encode(forged.manifest)), Rejected)
    assert receiver.held is None
    # A delta that claims to lead from what is held to what was signed, and does not.
    for index, chunk in enumerate(line[0].chunks):
        take("chunk", chunk, version=0, chunk=index)
    assert isinstance(take("model", sign(line[0].manifest, [OLD])), NewModel)
    true = codec.decode(line[6].deltas[5], Delta)
    lie = structs.replace(codec.decode(forged.deltas[5], Delta), digest=true.digest, parent_digest=true.parent_digest)
    for version, delta in line[6].deltas.items():
        take("delta", codec.encode(lie) if version == 5 else delta, version=version)
    said = take("model", sign(line[6].manifest, [OLD]))
    assert isinstance(said, Rejected)
    assert "delta 5: does not lead to the digest that it states" in said.reason
    assert receiver.held is not None
    assert receiver.held.published.version == 0
    assert isinstance(take("delta", line[6].deltas[5], version=5), NewModel), "the true one still leads there"
    assert receiver.held.published.digest == line[6].published.digest


def test_a_digest_with_another_layout_is_no_way() -> None:
    """The digest is of the weights alone; names and shapes must be those of the signed manifest, too."""
    line = [announced(shelf) for shelf in shelves(1)]
    inbox = Inbox(TASK)
    for index, chunk in enumerate(line[0].chunks):
        inbox.chunk(0, index, chunk)
    inbox.announced(line[0].manifest)
    outcome = inbox.announced(structs.replace(line[1].manifest, layout_fingerprint=bytes(8)))
    assert not isinstance(outcome, NewModel)
    assert inbox.held is not None
    assert inbox.held.published.version == 0


# The whole device, over restarts.


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    stage.model_keys = [OLD.public]
    stage.aggregator.signing_keys = [OLD]
    return stage


def warnings(stage: Stage) -> list[str]:
    return [told["message"] for told in stage.told("warning")]


def test_the_device_refuses_and_works_on(stage: Stage) -> None:
    stage.aggregator.publish(model(5))
    stage.run(lambda: len(stage.aggregator.merged) == 1)
    hostile = iter([payload for payload, _ in HOSTILE.values()])

    def attack() -> None:
        payload = next(hostile, None)
        if payload is not None:
            stage.aggregator.announce(payload)

    stage.at_turn = attack
    before = len(stage.aggregator.merged)
    stage.run(lambda: len(stage.aggregator.merged) == before + 2)
    assert len(warnings(stage)) == len(HOSTILE)
    assert {update.base_version for update in stage.aggregator.merged} == {5}, "it went on from the model that it has"
    stage.at_turn = lambda: None
    stage.aggregator.publish(model(6))
    stage.run(lambda: stage.aggregator.merged[-1].base_version == 6)


def test_rollback_is_refused_after_a_restart(stage: Stage) -> None:
    stage.aggregator.publish(model(5))
    stage.run(lambda: bool(stage.told("model")))
    stage.aggregator.publish(model(4))
    stage.run_for(1.0)
    assert [said for said in warnings(stage) if "version 4, and version 5" in said]
    assert {told["version"] for told in stage.told("model")} == {5}


def test_what_was_believed_is_durable_before_it_is_used(stage: Stage) -> None:
    """Killed just after the manifest, before the model was complete: the bar stands all the same."""
    with stage.outbox() as outbox:
        trust = stage.trust(outbox)
        assert trust is not None
        trust.read(sign(manifest(9), [OLD]))
        stage.aggregator.publish(model(8))

        def die() -> None:
            if stage.told("connected"):
                raise Kill

        stage.at_turn = die
    with pytest.raises(Kill):
        stage.run_for(10.0)
    stage.at_turn = lambda: None
    stage.run_for(1.0)
    assert stage.told("model") == []
    assert any("version 8, and version 9" in said for said in warnings(stage))


def test_a_model_that_was_cached_without_a_check_is_not_used_once_keys_are_pinned(stage: Stage) -> None:
    stage.model_keys, stage.aggregator.signing_keys = [], []
    stage.aggregator.publish(model(5))
    stage.run(lambda: bool(stage.told("model")))
    stage.events.clear()
    stage.model_keys = [OLD.public]
    stage.run_for(1.0)
    assert stage.told("model") == []
    assert warnings(stage) == ["a manifest was refused: it is not signed"]
    stage.aggregator.signing_keys = [OLD]
    stage.aggregator.publish(model(5))
    stage.run(lambda: bool(stage.told("model")))
    stage.events.clear()
    stage.model_keys = [OLD.public, NEW.public]
    del stage.broker.retained[topics.build("model", root=ROOT, task=TASK)]
    stage.run_for(1.0)
    assert [told["version"] for told in stage.told("model")] == [5], (
        "offline it has what was checked by a key still pinned"
    )
    stage.events.clear()
    stage.model_keys = [NEW.public]
    stage.run_for(1.0)
    assert stage.told("model") == [], "a key that was taken away vouches for nothing"


def test_updates_are_signed_where_there_is_a_key(stage: Stage) -> None:
    stage.update_key = NEW
    listener = MemoryLink(
        stage.broker, "listener", subscriptions=(topics.topic_filter("update", root=ROOT, task=TASK),)
    )
    stage.aggregator.publish(model(5))
    stage.run(lambda: bool(stage.told("receipt")))
    payloads = [event.payload for event in listener.receive(count=9, timeout_seconds=0) if hasattr(event, "payload")]
    assert verified_signers(unwrap(payloads[0], Update), [NEW.public]) == {NEW.public.key_id}
    assert read_unverified(payloads[0], Update) == stage.aggregator.merged[0]


def test_a_device_without_pins_takes_signed_and_plain_ones(stage: Stage) -> None:
    stage.model_keys = []
    stage.aggregator.publish(model(5))
    stage.run(lambda: bool(stage.told("model")))
    stage.aggregator.signing_keys = []
    stage.aggregator.publish(model(6))
    stage.run(lambda: stage.told("model")[-1]["version"] == 6)
    assert warnings(stage) == []
