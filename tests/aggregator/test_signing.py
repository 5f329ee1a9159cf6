"""Signed manifests with an expiry that is renewed, and updates that must be signed by their device."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from aggregator.admission import AdmissionPolicy
from aggregator.ledger.reading import read_totals
from aggregator.model_line import LineSettings
from aggregator.service import Service
from aggregator.status import StatusHistory
from tests.aggregator.stage import MODEL
from tests.aggregator.stage import Stage as PlainStage
from tests.aggregator.synthetic import ROOT, SETTINGS, T0, SyntheticDevice, identities, newest_weights
from tests.wire_contract.keys import key
from wire_contract.codec import decode, encode
from wire_contract.link.memory import MemoryLink
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Manifest, Signed, Update
from wire_contract.signatures.envelope import read_unverified, unwrap
from wire_contract.signatures.key_files import KeyFolder
from wire_contract.signatures.signing import SigningKey, sign, verified_signers

OLD, NEW = key(1), key(2)
OF_A, OF_B = key(3), key(4)
LIFETIME_SECONDS = 3_600.0


class Stage(PlainStage):
    """One that signs, and wants signatures as its settings say."""

    def __init__(
        self,
        path: Path,
        settings: LineSettings = SETTINGS,
        *,
        signing_keys: tuple[SigningKey, ...] = (OLD,),
        lifetime_seconds: float | None = LIFETIME_SECONDS,
    ) -> None:
        self.signing_keys = signing_keys
        self.lifetime_seconds = lifetime_seconds
        super().__init__(path, settings)
        self.reader = MemoryLink(self.broker, "reader", subscriptions=(MODEL,))

    def start(self, *, history: StatusHistory | None = None, replace_line: bool = False) -> None:
        super().start()
        self.service = Service(
            self.line,
            self.ledger,
            self.link,
            root=ROOT,
            totals=read_totals(self.path),
            clock=self.service._clock,
            pause=self._pause,
            settle_seconds=0.0,
            replace_line=replace_line,
            history=history,
            signing_keys=self.signing_keys,
            model_lifetime_seconds=self.lifetime_seconds,
        )

    @property
    def manifest(self) -> Manifest:
        return read_unverified(self.broker.retained[MODEL], Manifest)

    def signed_by(self) -> frozenset[bytes]:
        return verified_signers(unwrap(self.broker.retained[MODEL], Manifest), [OLD.public, NEW.public])

    def manifests(self) -> list[Manifest]:
        """What a device that listens got since it was asked last."""
        events = self.reader.receive(count=1_000, timeout_seconds=0)
        return [read_unverified(event.payload, Manifest) for event in events if isinstance(event, Delivery)]


MakeStage = Callable[..., Stage]


@pytest.fixture
def make_stage(tmp_path: Path) -> Iterator[MakeStage]:
    made: list[Stage] = []

    def make(settings: LineSettings = SETTINGS, **more: Any) -> Stage:
        made.append(Stage(tmp_path / "ledger", settings, **more))
        made[-1].step()
        return made[-1]

    yield make
    for stage in made:
        stage.ledger.close()


# What is published.


def test_the_manifest_is_signed_by_each_key_and_says_when_it_expires(make_stage: MakeStage) -> None:
    stage = make_stage(signing_keys=(OLD, NEW))
    assert stage.signed_by() == {OLD.public.key_id, NEW.public.key_id}
    assert stage.manifest.expires_at == T0 + stage.now + LIFETIME_SECONDS
    stage.teach(1)
    assert stage.manifest.version == 1
    assert stage.signed_by() == {OLD.public.key_id, NEW.public.key_id}


def test_without_a_key_nothing_looks_different(make_stage: MakeStage) -> None:
    stage = make_stage(signing_keys=(), lifetime_seconds=None)
    manifest = decode(stage.broker.retained[MODEL], Manifest)
    assert manifest.expires_at is None
    stage.manifests()
    stage.now += 1e7
    stage.step(3)
    assert stage.manifests() == [], "nothing is renewed that does not expire"


def test_a_fresh_manifest_comes_well_before_the_old_one_expires(make_stage: MakeStage) -> None:
    stage = make_stage()
    (first,) = stage.manifests()
    stage.now += LIFETIME_SECONDS / 2 - 1
    stage.step(2)
    assert stage.manifests() == []
    stage.now += 1
    stage.step(2)
    (again,) = stage.manifests()
    assert again == structs.replace(first, expires_at=T0 + stage.now + LIFETIME_SECONDS)
    assert first.expires_at is not None
    assert T0 + stage.now < first.expires_at - LIFETIME_SECONDS / 3, "a device never sees it expired"
    assert stage.signed_by() == {OLD.public.key_id}
    for _ in range(10):  # for ever, with no update and no version
        stage.now += LIFETIME_SECONDS / 2
        stage.step()
        (one,) = stage.manifests()
        assert (one.version, one.expires_at) == (0, T0 + stage.now + LIFETIME_SECONDS)


def test_without_a_broker_it_is_renewed_on_the_next_connection(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.manifests()
    stage.broker.drop("aggregator")
    stage.step()
    stage.now += LIFETIME_SECONDS
    stage.step(3)
    assert stage.manifest.expires_at == T0 + stage.now + LIFETIME_SECONDS


def test_a_restart_with_other_keys_signs_what_stands_with_them(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.teach(2)
    before = stage.manifest
    for keys in ((OLD, NEW), (NEW,)):
        stage.crash()
        stage.signing_keys = keys
        stage.start()
        stage.step()
        assert stage.signed_by() == {one.public.key_id for one in keys}
        assert (stage.manifest.version, stage.manifest.digest) == (before.version, before.digest)


# What is taken.


@pytest.fixture
def guarded(tmp_path: Path, make_stage: MakeStage) -> Stage:
    """Wants updates that `a` and `b` have signed."""
    folder = tmp_path / "keys"
    folder.mkdir()
    for name, one in (("a", OF_A), ("b", OF_B)):
        (folder / f"{name}.pub").write_bytes(one.public.raw)
    policy = AdmissionPolicy(device_keys=KeyFolder(folder).keys_of)
    return make_stage(replace(SETTINGS, policy=policy))


def test_a_signed_update_is_merged_and_the_journal_keeps_its_bytes(guarded: Stage) -> None:
    device = SyntheticDevice("a")
    payload = sign(device.update(guarded.line), [OF_A])
    guarded.send(device, payload)
    guarded.step()
    assert guarded.outcomes() == ["merged"]
    rows = guarded.ledger._db.execute("SELECT payload, size_bytes FROM journal").fetchall()
    assert rows == [(payload, len(payload))]
    guarded.send(device, payload)
    guarded.step()
    assert guarded.outcomes() == ["duplicate"]
    guarded.crash()
    guarded.start()
    assert guarded.line.buffer.updates == 1, "a restart reads the journal, envelopes and all"


def forgeries(true: Update) -> dict[str, bytes]:
    signed = decode(sign(true, [OF_A]), Signed)
    changed = structs.replace(true, samples=2**40)
    return {
        "not signed": encode(true),
        "another device's key": sign(true, [OF_B]),
        "an unknown key": sign(true, [NEW]),
        "other bytes": encode(structs.replace(signed, body=unwrap(encode(changed), Update).body)),
        "nonsense inside": encode(structs.replace(signed, body=b"nonsense")),
    }


@pytest.mark.parametrize(
    "name", ["not signed", "another device's key", "an unknown key", "other bytes", "nonsense inside"]
)
def test_a_forgery_is_refused_counted_and_spoils_nothing(guarded: Stage, name: str) -> None:
    """Neither may the true update become a duplicate, nor a refusal be remembered for it."""
    device, other = SyntheticDevice("a"), SyntheticDevice("b")
    true = device.update(guarded.line)
    payload = forgeries(true)[name]
    for _ in range(3):
        guarded.send(device, payload)
        guarded.step()
    receipts = guarded.receipts()
    assert [(one.outcome, one.reason, one.sequence) for one in receipts] == [("refused", "signature", 0)] * 3
    assert all(one.incarnation == b"" and one.payload_digest for one in receipts), "it names no identity"
    assert (identities(guarded.path), guarded.line.buffer.updates, guarded.line.devices) == ([], 0, 0)
    assert read_totals(guarded.path).refused_by_reason == {"signature": 3}
    guarded.send(device, sign(true, [OF_A]))
    guarded.step()
    assert guarded.outcomes() == ["merged"]
    guarded.send(other, sign(other.update(guarded.line), [OF_B]))
    guarded.step()
    assert guarded.outcomes() == ["merged"]
    assert guarded.line.version == 1


def test_a_forger_cannot_use_up_the_sequences_of_a_device(guarded: Stage) -> None:
    device = SyntheticDevice("a")
    first = device.update(guarded.line)
    guarded.send(device, sign(first, [OF_A]))
    guarded.step()
    far = structs.replace(first, sequence=2**53)
    guarded.send(device, encode(far))
    guarded.send(device, sign(far, [OF_B]))
    guarded.step()
    guarded.send(device, sign(device.update(guarded.line), [OF_A]))
    guarded.step()
    assert guarded.outcomes() == ["merged", "signature", "signature", "merged"]


def test_a_refused_update_is_refused_for_its_own_reason_after_a_forgery_of_it(guarded: Stage) -> None:
    device = SyntheticDevice("a")
    lost = device.update(guarded.line, base_digest=bytes(32))
    for payload in (encode(lost), sign(lost, [OF_A]), encode(lost), sign(lost, [OF_A])):
        guarded.send(device, payload)
        guarded.step()
    assert guarded.outcomes() == ["signature", "unknown_base", "signature", "unknown_base"]
    assert read_totals(guarded.path).refused_by_reason == {"signature": 2, "unknown_base": 1}


def test_a_device_key_counts_as_soon_as_its_file_is_there(guarded: Stage, tmp_path: Path) -> None:
    device = SyntheticDevice("c")
    payload = sign(device.update(guarded.line), [NEW])
    guarded.send(device, payload)
    guarded.step()
    file = tmp_path / "keys" / "c.pub"
    file.write_bytes(NEW.public.raw)
    guarded.send(device, payload)
    guarded.step()
    file.write_bytes(b"nonsense")
    guarded.send(device, sign(device.update(guarded.line), [NEW]))
    guarded.step()
    answers = guarded.receipts()
    assert [one.reason or one.outcome for one in answers] == ["signature", "merged", "signature"]
    assert str(file) not in answers[-1].detail, "paths of the server are nobody else's business"


def test_where_no_signature_is_asked_for_signed_updates_are_merged_too(make_stage: MakeStage) -> None:
    """So that devices can begin to sign before the aggregator insists."""
    stage = make_stage()
    signed, plain = SyntheticDevice("a"), SyntheticDevice("b")
    stage.send(signed, sign(signed.update(stage.line), [NEW]))
    stage.send(plain)
    stage.step()
    assert stage.outcomes() == ["merged", "merged"]
    assert stage.line.version == 1
    weights = newest_weights(stage.path)
    stage.crash()
    stage.start()
    assert stage.line.weights.tobytes() == weights.tobytes()
