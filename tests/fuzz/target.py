"""What must hold of any payload: a value or a `DecodeError`, no warning, bounded time and memory."""

import time
import tracemalloc
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import lz4.frame
import msgspec
import numpy as np

from tests.fuzz.corpus import LAYOUT, LIMITS
from tests.wire_contract.keys import key_of
from wire_contract import codec
from wire_contract.encoding import decode_vector
from wire_contract.errors import DecodeError
from wire_contract.layout import Layout, Vector, digest
from wire_contract.limits import CHUNK_BYTES_MAX, DELTA_LIMITS, Limits
from wire_contract.messages import Delta, Manifest, Message, Model, Signed, Update, has_unknown_status
from wire_contract.publication.deltas import apply_delta
from wire_contract.publication.manifest import PublishedVersion, assemble_snapshot, chunk_digests, decode_snapshot
from wire_contract.signatures.envelope import unwrap
from wire_contract.signatures.signing import NotTrusted, PublicKey, verified_signers

SECONDS_MAX = 1.0
"""CPU time of one payload within `LIMITS`. The slowest honest one takes some ten milliseconds."""
MEMORY_BASE_BYTES = 1 << 19
"""1,024 entries of six bytes each are objects of some 200, and this check holds a message and its second reading."""
MEMORY_PER_CONTENT = 6
"""Bytes held at once for each byte of content within the limit: its text as wide characters, and its copies."""
MEMORY_PER_ELEMENT = 40 * 4
"""…and for each element of the layout that is decoded: forty vectors, most of them of int64 while gaps are read."""
ERROR_CHARACTERS_MAX = 25_000
"""Two tensor names of 1,024 characters, each written as an escape of ten."""

_KEY = key_of(b"nobody has signed with this one!").public.raw
_OWN_LIMITS: Mapping[type[Message], Limits] = {
    kind: replace(
        limits,
        compressed_bytes=min(limits.compressed_bytes, LIMITS.compressed_bytes),
        decompressed_bytes=min(limits.decompressed_bytes, LIMITS.decompressed_bytes),
        elements=LIMITS.elements,
    )
    for kind, limits in codec.DEFAULT_LIMITS.items()
}
"""The real ones, but never wider than `LIMITS`."""


@dataclass
class Seen:
    """What came of the payloads, so that a fuzzer that only ever meets the first check is noticed."""

    payloads: int = 0
    decoded: int = 0
    """Messages of their kind."""
    values: int = 0
    """…that gave weights, too: the tensors fit the layout, and digests were right or put right."""
    refused: int = 0
    seconds_max: float = 0.0
    memory_share_max: float = 0.0
    """Of what was allowed."""

    def add(self, other: "Seen") -> None:
        self.payloads += other.payloads
        self.decoded += other.decoded
        self.values += other.values
        self.refused += other.refused
        self.seconds_max = max(self.seconds_max, other.seconds_max)
        self.memory_share_max = max(self.memory_share_max, other.memory_share_max)


class Broken(Exception):
    """A payload did what none may do."""


def check(payload: bytes, kind: type[Message], base: PublishedVersion, seen: Seen, *, measure_memory: bool) -> None:
    """Reads `payload` as whoever gets it would.

    Raises:
        Broken: a bound does not hold. Any other exception is a finding as well; warnings are to be errors.
    """
    began = time.process_time()
    peak = _peak_of(payload, kind, base, seen) if measure_memory else 0
    if not measure_memory:
        _read(payload, kind, base, seen)
    seconds = time.process_time() - began
    seen.payloads += 1
    seen.seconds_max = max(seen.seconds_max, seconds)
    if seconds > SECONDS_MAX:
        raise Broken(f"{seconds:.2f} s of CPU time, over {SECONDS_MAX}")
    if peak:
        allowed = _memory_allowed(payload)
        seen.memory_share_max = max(seen.memory_share_max, peak / allowed)
        if peak > allowed:
            raise Broken(f"{peak} bytes at once, over {allowed}")


def _peak_of(payload: bytes, kind: type[Message], base: PublishedVersion, seen: Seen) -> int:
    tracemalloc.start()
    try:
        _read(payload, kind, base, seen)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _memory_allowed(payload: bytes) -> int:
    """By what the frame states, as far as it is within the limits, and the layout that it may bring along."""
    try:
        stated = int(lz4.frame.get_frame_info(payload)["content_size"])
    except RuntimeError:
        stated = 0
    # A payload inside a payload is as large as its own frame says, not as the outer one: then the limit itself holds.
    content = (
        LIMITS.decompressed_bytes if b"\x04\x22\x4d\x18" in payload[4:] else min(stated, LIMITS.decompressed_bytes)
    )
    return MEMORY_BASE_BYTES + MEMORY_PER_CONTENT * content + MEMORY_PER_ELEMENT * _elements(payload)


def _elements(payload: bytes) -> int:
    """Of the layout inside, or of the one that updates and deltas are read with."""
    with suppress(DecodeError):
        return max(Layout(codec.decode(payload, Model, limits=LIMITS).layout).size, LAYOUT.size)
    with suppress(DecodeError):
        inline = codec.decode(payload, Manifest).inline
        return _elements(inline) if inline else LAYOUT.size
    return LAYOUT.size


def _read(payload: bytes, kind: type[Message], base: PublishedVersion, seen: Seen) -> None:
    try:
        message = codec.decode(payload, kind, limits=_OWN_LIMITS.get(kind))
        assert isinstance(message, kind)
        seen.decoded += 1
        if not has_unknown_status(message):
            written = codec.encode(message)  # compared as bytes, because a scale that is NaN is not equal to itself
            again = codec.decode(written, kind, limits=_OWN_LIMITS.get(kind))
            assert codec.encode(again) == written, "it does not come back"
        _use(message, payload, base)
        seen.values += 1
    except DecodeError as error:
        seen.refused += 1
        said = str(error)
        assert said.isprintable(), "the sender's bytes reach the log"
        assert len(said) <= ERROR_CHARACTERS_MAX, f"an error of {len(said)} characters"


def _use(message: Message, payload: bytes, base: PublishedVersion) -> None:
    match message:
        case Update():
            out: Vector = np.full(base.layout.size, np.nan, dtype=np.float32)
            decode_vector(message.tensors, base.layout, out=out)
        case Model():
            _read_model(message, payload)
        case Delta():
            _follow(message, base)
        case Manifest():
            _assemble(message, base)
        case Signed():
            _open(payload, base)
        case _:
            pass


def _open(payload: bytes, base: PublishedVersion) -> None:
    """As both kinds that are signed; nobody signed it."""
    for kind in (Manifest, Update):
        message = unwrap(payload, kind, limits=_OWN_LIMITS[kind])
        with suppress(NotTrusted):
            verified_signers(message, [PublicKey(_KEY)])
            raise Broken("a signature by nobody holds")
        with suppress(DecodeError):
            _use(message.open(), b"", base)


def _read_model(model: Model, payload: bytes) -> None:
    """Most damage ends at the digest; so it is put right, to see what comes after it."""
    with suppress(DecodeError):
        decode_snapshot(payload, limits=LIMITS)
    mended = msgspec.structs.replace(model, digest=digest(decode_vector(model.tensors, Layout(model.layout))))
    published = decode_snapshot(codec.encode(mended), limits=LIMITS)
    assert np.isfinite(published.weights).all()


def _follow(delta: Delta, base: PublishedVersion) -> None:
    with suppress(DecodeError):
        apply_delta(base, delta)
    placed = PublishedVersion(delta.task, delta.version - 1, base.layout, base.weights, delta.parent_digest)
    published = apply_delta(placed, msgspec.structs.replace(delta, digest=_reached(delta, base)))
    assert np.isfinite(published.weights).all()


def _reached(delta: Delta, base: PublishedVersion) -> bytes:
    """The digest that is true, computed plainly."""
    with np.errstate(all="ignore"):
        total = base.weights + decode_vector(delta.tensors, base.layout)
        return digest(total.astype(np.float16).astype(np.float32) if delta.grid == "float16" else total)


def _assemble(manifest: Manifest, base: PublishedVersion) -> None:
    if manifest.delta is not None:
        with suppress(DecodeError):
            _follow(codec.decode(manifest.delta, Delta, limits=DELTA_LIMITS), base)
    assemble_snapshot(manifest, dict(enumerate([b"a", bytes(CHUNK_BYTES_MAX)])), limits=LIMITS)
    if manifest.inline is not None:  # the same bytes as one chunk
        chunked = msgspec.structs.replace(manifest, inline=None, chunk_digests=chunk_digests([manifest.inline]))
        assemble_snapshot(chunked, {0: manifest.inline}, limits=LIMITS)
