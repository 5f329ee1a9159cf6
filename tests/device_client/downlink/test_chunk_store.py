"""A chunk costs the same work whatever the size of the model, and the counting is right."""

import gc
import hashlib
import sys
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from device_client.downlink.chunk_store import ChunkKey, ChunkStore
from device_client.downlink.inbox import Inbox
from tests.device_client.stage import TASK, model
from wire_contract.limits import CHUNK_BYTES_MAX


class Counted(bytes):
    """A digest that counts how often somebody looks it up."""

    looks = 0

    def __hash__(self) -> int:
        Counted.looks += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Counted.looks += 1
        return super().__eq__(other)


def work_a_chunk(count: int) -> tuple[float, float]:
    """Lines of Python executed and digests looked at, for one chunk in the middle of a snapshot of `count`."""
    chunks = [b"%08d" % number * (CHUNK_BYTES_MAX // 8) for number in range(count)]
    digests = tuple(Counted(hashlib.sha256(chunk).digest()) for chunk in chunks)
    older = msgspec.structs.replace(
        model(6).manifest, inline=None, size_bytes=count * CHUNK_BYTES_MAX, chunk_digests=digests[1:]
    )
    newer = msgspec.structs.replace(older, version=7, digest=bytes(32), chunk_digests=digests)
    inbox = Inbox(TASK)
    inbox.announced(model(5).manifest)
    inbox.announced(older)
    inbox.announced(newer)
    for index in range(count // 2):
        inbox.chunk(7, index, chunks[index])
    lines = 0

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before, measured = Counted.looks, range(count // 2, count // 2 + 16)
    gc.disable()  # or what hypothesis does at a collection would be counted, whenever there is one
    sys.settrace(trace)
    try:
        for index in measured:
            inbox.chunk(7, index, chunks[index])
    finally:
        sys.settrace(None)
        gc.enable()
    return lines / len(measured), (Counted.looks - before) / len(measured)


@pytest.mark.skipif(sys.gettrace() is not None, reason="somebody else traces")
def test_the_work_a_chunk_does_not_grow_with_the_model() -> None:
    (few_lines, few_looks), (many_lines, many_looks) = work_a_chunk(40), work_a_chunk(1_000)
    assert many_lines == few_lines
    assert many_looks <= few_looks <= 20


def keys(snapshot: int) -> list[ChunkKey]:
    """Snapshot 0 and 1 share chunks, snapshot 2 has one twice."""
    digits = {0: "abcd", 1: "cdef", 2: "ghgi"}[snapshot]
    return [(9, digit.encode()) for digit in digits]


class StoreMachine(RuleBasedStateMachine):
    """Against a store that looks at everything each time."""

    BOUND = 25

    def __init__(self) -> None:
        super().__init__()
        self.store = ChunkStore(self.BOUND)
        self.chunks: dict[ChunkKey, bytes] = {}
        self.sought: set[int] = set()

    @staticmethod
    def name(snapshot: int) -> ChunkKey:
        return (9, b"snapshot %d" % snapshot)

    def asked(self) -> set[ChunkKey]:
        return {key for snapshot in self.sought for key in keys(snapshot)}

    def bound(self) -> None:
        early = [key for key in self.chunks if key not in self.asked()]
        while sum(len(self.chunks[key]) for key in early) > self.BOUND:
            del self.chunks[early.pop(0)]

    @rule(digit=st.sampled_from("abcdefghijklmnop"), size=st.integers(1, 9), version=st.sampled_from([8, 9, 9, 9]))
    def add(self, digit: str, size: int, version: int) -> None:
        key = (version, digit.encode())
        payload = self.chunks.pop(key, bytes(size))
        self.chunks[key] = payload
        assert self.store.add(key, payload) == (key in self.asked())
        self.bound()

    @rule(snapshot=st.sampled_from([0, 1, 2]))
    def seek_or_give_up(self, snapshot: int) -> None:
        if snapshot in self.sought:
            self.store.give_up(self.name(snapshot))
            self.sought.remove(snapshot)
            released = [key for key in dict.fromkeys(keys(snapshot)) if key in self.chunks and key not in self.asked()]
            for key in released:  # as if they had come just now
                self.chunks[key] = self.chunks.pop(key)
            self.bound()
        else:
            self.store.want(self.name(snapshot), keys(snapshot))
            self.sought.add(snapshot)

    @precondition(lambda self: not self.sought)
    @rule()
    def drop(self) -> None:
        self.store.drop(up_to=8)
        self.chunks = {key: payload for key, payload in self.chunks.items() if key[0] > 8}

    @invariant()
    def all_is_counted(self) -> None:
        assert sum(map(len, self.store._chunks.values())) == sum(map(len, self.chunks.values()))
        for snapshot in self.sought:
            here = [self.chunks[key] for key in keys(snapshot) if key in self.chunks]
            assert self.store.received_bytes(self.name(snapshot)) == sum(map(len, here))
            assert self.store.is_complete(self.name(snapshot)) == (len(here) == 4)
            if len(here) == 4:
                assert list(self.store.of(self.name(snapshot))) == here


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStoreMachine = StoreMachine.TestCase
