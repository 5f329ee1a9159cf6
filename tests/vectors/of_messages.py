"""One message of each kind, and frames."""

import hashlib
import struct
from typing import Any

import lz4.frame
import msgspec
from msgspec import structs

from tests.vectors.form import fields_of, frame, packed, unframed
from tests.vectors.of_lines import DEVICE, INCARNATION, LAYOUT, TASK, WEIGHTS, levels_of, line
from tests.wire_contract.announcements import announce
from tests.wire_contract.keys import key_of
from wire_contract import topics
from wire_contract.codec import decode, encode
from wire_contract.encoding import EncodedTensor, GapCoded, encode_vector
from wire_contract.layout import digest
from wire_contract.main_metric import MainMetric
from wire_contract.messages import (
    AggregatorStatus,
    Delta,
    Evaluation,
    Manifest,
    Message,
    Model,
    Presence,
    Receipt,
    Signed,
    Update,
)
from wire_contract.publication.manifest import chunk_digests
from wire_contract.signatures.signing import SigningKey, sign
from wire_contract.summary import (
    MeasuredAccuracy,
    MeasuredVersion,
    SeenDevice,
    StalenessBucket,
    Summary,
    evaluation_fields,
)


def messages() -> list[dict[str, Any]]:
    return [_vector(name, kind, message, parts) for name, kind, message, parts in _all()] + [_stored(), *_by_others()]


def _vector(name: str, kind: topics.Kind | None, message: Message, parts: dict[str, str | int]) -> dict[str, Any]:
    payload = encode(message)
    return {
        "name": name,
        "kind": type(message).__name__,
        "topic": topics.build(kind, root=topics.DEFAULT_ROOT, task=TASK, **parts) if kind else None,
        "canonical": True,
        "payload": payload.hex(),
        "content": unframed(payload).hex(),
        "message": fields_of(message),
    }


def _stored() -> dict[str, Any]:
    """What firmware without a compressor writes, with fields that it does not set left out."""
    fields = {"o": "online", "v": 1, "unknown": [None, {"a": 1}]}
    content = packed(fields)
    header = b"\x68\x40" + struct.pack("<Q", len(content))
    payload = bytes.fromhex("04224d18") + header + b"\x00" + struct.pack("<I", 1 << 31 | len(content)) + content
    payload = _with_checksum(payload + bytes(4))
    return {
        "name": "presence in a frame of one stored block, with an unknown key and without the optional ones",
        "kind": "Presence",
        "topic": topics.build("presence", root=topics.DEFAULT_ROOT, task=TASK, device=DEVICE),
        "canonical": False,
        "payload": payload.hex(),
        "content": content.hex(),
        "message": fields_of(Presence(status="online")),
    }


def _by_others() -> list[dict[str, Any]]:
    """What other programs may write: without the keys that may be left out, in another order, or newer ones."""
    manifest = fields_in(next(message for name, _, message, _ in _all() if name == "manifest with the model inline"))
    inline = {key: manifest[key] for key in ("t", "n", "p", "d", "l", "s", "x", "u", "at", "v")}
    taught = fields_in(update("", encode_vector(WEIGHTS, LAYOUT, "int8"))[2])
    backwards = dict(reversed(taught.items()))
    answered = {"o": "refused", "b": 3, "v": 1}
    told = {"o": "online", "n": 2, "v": 1}
    seen = [[DEVICE, "postponed", 2, 1_700_000_099.0, 5, "a later field"]]
    summary = {"at": 1_700_000_100.5, "a": 1_700_000_000.0, "k": seen}
    return [
        _read("manifest with nothing that may be left out", Manifest, inline),
        _read("manifest of schema 1, which knew no deltas", Manifest, {**inline, "e": "float16", "c": [], "v": 1}),
        _read("update with nothing that may be left out", Update, {k: taught[k] for k in taught if k != "m"}),
        _read("update with its keys the other way round", Update, backwards),
        _read("receipt with nothing that may be left out", Receipt, answered),
        _read("presence with nothing that may be left out", Presence, {"o": "offline", "v": 1}),
        _read("aggregator status with nothing that may be left out", AggregatorStatus, told),
        _read(
            "receipt of a newer aggregator: an unknown reason is read as `other`, and named in the text",
            Receipt,
            {"i": INCARNATION, "n": 17, **answered, "r": "quota", "x": "12 of 12 today"},
        ),
        _read(
            "receipt of a newer aggregator: an unknown outcome, too",
            Receipt,
            {"i": INCARNATION, "n": 17, **answered, "o": "postponed"},
        ),
        _read("presence of a newer device: an unknown status", Presence, {"o": "asleep", "v": 1}),
        _read(
            "status of a newer aggregator: statuses and fields unknown",
            AggregatorStatus,
            {**told, "o": "draining", "s": summary},
        ),
    ]


def _read(name: str, kind: type[Message], fields: dict[str, Any]) -> dict[str, Any]:
    payload = frame(packed(fields))
    return {
        "name": name,
        "kind": kind.__name__,
        "topic": None,
        "canonical": False,
        "payload": payload.hex(),
        "content": unframed(payload).hex(),
        "message": fields_of(decode(payload, kind)),
    }


def frames() -> list[dict[str, Any]]:
    """One message of more than a block of 64 KiB, as frames that a reader must take."""
    content = packed({"o": "online", "unknown": "".join(f"{number * number} " for number in range(100)) * 200, "v": 1})
    assert len(content) > 1 << 16
    linked = bytes(lz4.frame.compress(content, store_size=True))
    return [
        {
            "why": why,
            "payload": payload.hex(),
            "flg_bd": payload[4:6].hex(),
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for why, payload in (
            ("independent blocks, as they are written", frame(content)),
            ("linked blocks, as the first release wrote what is over 64 KiB", linked),
        )
    ]


def fields_in(message: Message) -> dict[str, Any]:
    """By the keys of the wire, bytes as bytes."""
    built: dict[str, Any] = msgspec.to_builtins(message, builtin_types=(bytes,))
    return built


def _with_checksum(payload: bytes) -> bytes:
    """The header checksum as the reference implementation finds it, by asking it for each of the 256."""
    return next(
        candidate
        for byte in range(256)
        for candidate in [payload[:14] + bytes([byte]) + payload[15:]]
        if _is_frame(candidate)
    )


def _is_frame(payload: bytes) -> bool:
    try:
        return bool(unframed(payload))
    except RuntimeError:
        return False


def update(name: str, tensors: tuple[EncodedTensor, ...]) -> tuple[str, topics.Kind, Message, dict[str, str | int]]:
    message = Update(
        task=TASK,
        device=DEVICE,
        incarnation=INCARNATION,
        sequence=17,
        base_version=0,
        base_digest=digest(WEIGHTS),
        layout_fingerprint=LAYOUT.fingerprint,
        samples=960,
        local_steps=30,
        train_seconds=12.5,
        metrics={"loss": 0.75},
        tensors=tensors,
    )
    return name, "update", message, {"shard": 0, "device": DEVICE}


def signed_ones() -> list[tuple[str, Manifest | Update, list[tuple[bytes, SigningKey]]]]:
    """Name, message, and the private keys with their seeds."""
    old, new = ((seed, key_of(seed)) for seed in (bytes(range(32)), bytes(range(32, 64))))
    manifest = announce(
        WEIGHTS,
        task=TASK,
        version=3,
        parent=2,
        layout=LAYOUT,
        encoding="float16",
        shards=1,
        update_bytes_max=1 << 20,
        published_at=1_700_000_000.25,
    ).manifest
    manifest = structs.replace(manifest, expires_at=1_700_086_400.25)
    _, _, taught, _ = update("", encode_vector(WEIGHTS, LAYOUT, "int8"))
    assert isinstance(taught, Update)
    return [("manifest while keys are exchanged", manifest, [old, new]), ("update of a device", taught, [new])]


def _plain(signed: tuple[str, Manifest | Update, list[tuple[bytes, SigningKey]]]) -> Signed:
    _, message, keys = signed
    return msgspec.msgpack.decode(unframed(sign(message, [key for _, key in keys])), type=Signed)


def _all() -> list[tuple[str, topics.Kind | None, Message, dict[str, str | int]]]:
    snapshot, start, sent, reached = line()
    whole_one = announce(
        WEIGHTS,
        task=TASK,
        version=0,
        parent=None,
        layout=LAYOUT,
        encoding="float16",
        shards=1,
        update_bytes_max=1 << 20,
        published_at=1_700_000_000.25,
    ).manifest
    later = structs.replace(
        whole_one,
        version=2,
        parent=1,
        digest=reached[-1].digest,
        snapshot=0,
        chunk_digests=chunk_digests([snapshot[:100], snapshot[100:]]),
        inline=None,
        delta=sent[-1],
        delta_sizes=tuple(map(len, reversed(sent))),
    )
    refused = Receipt(
        outcome="refused",
        version=3,
        reason="malformed",
        detail="frame: not an LZ4 frame",
        payload_digest=hashlib.sha256(b"not a frame").digest()[:8],
    )
    merged = Receipt(incarnation=INCARNATION, sequence=17, outcome="merged", version=2, weight=0.5, staleness=2)
    measured = Evaluation(
        task=TASK, device="judge", version=2, digest=start.digest, samples=400, metrics={"accuracy": 0.875, "f1": 0.5}
    )
    status = AggregatorStatus(status="online", version=2, counters={"merged": 5, "refused": 0})
    told = Summary(
        at=1_700_000_100.5,
        since=1_700_000_000.0,
        accuracies=(
            MeasuredAccuracy(2, "judge", 0.875, 1_700_000_090.25),
            MeasuredAccuracy(1, "judge", 0.5, 1_700_000_060.0),
        ),
        staleness=(StalenessBucket(0, 4), StalenessBucket(1, 0), StalenessBucket(129, 1)),
        devices=(SeenDevice(DEVICE, "merged", 2, 1_700_000_099.0, 5),),
        updates_per_minute=5,
        bytes_up=5_120,
        bytes_down=1 << 33,
    )
    mae = MainMetric("mae", higher_is_better=False)
    by_mae = structs.replace(
        told, **evaluation_fields(mae, (MeasuredVersion(2, "judge", 0.25, 1_700_000_090.25),)), accuracies=()
    )
    erred = structs.replace(measured, metrics={"loss": 0.125, "mae": 0.25}, declared=mae)
    here: dict[str, str | int] = {"device": DEVICE}
    return [
        update("update in float32", encode_vector(WEIGHTS, LAYOUT, "float32")),
        update("update in int8", encode_vector(WEIGHTS, LAYOUT, "int8")),
        update("update of levels in one entry", levels_of([0, -8, 3])),
        update("update of zeros: one bit a tensor", (GapCoded(3, b"\0"),)),
        ("model in float16", None, msgspec.msgpack.decode(unframed(snapshot), type=Model), {}),
        ("delta in int8", "delta", msgspec.msgpack.decode(unframed(sent[0]), type=Delta), {"version": 1}),
        ("manifest with the model inline", "model", whole_one, {}),
        ("manifest with a delta inline and a snapshot in two chunks", "model", later, {}),
        ("manifest of a closed line", "model", structs.replace(whole_one, next_line=f"{TASK}.2", closed=True), {}),
        ("signed manifest, by two keys", None, _plain(signed_ones()[0]), {}),
        ("signed update", None, _plain(signed_ones()[1]), {}),
        ("receipt: merged", "receipt", merged, here),
        ("receipt: refused, unreadable", "receipt", refused, here),
        ("presence", "presence", Presence(status="online", firmware="fw 1.2", capability={"int8": "yes"}), here),
        ("presence: the will", "presence", Presence(status="offline", firmware="fw 1.2"), here),
        ("evaluation", "evaluation", measured, {"device": "judge"}),
        ("evaluation by another main metric", "evaluation", erred, {"device": "judge"}),
        ("aggregator status", "aggregator", status, {"shard": 0}),
        ("aggregator status with a summary", "aggregator", structs.replace(status, summary=told), {"shard": 0}),
        (
            "aggregator status with a summary of another main metric",
            "aggregator",
            structs.replace(status, summary=by_mae),
            {"shard": 0},
        ),
    ]
