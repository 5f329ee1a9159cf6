"""A model line without learning: a small layout, devices that make up differences, and the sum done a second time."""

import itertools
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import save_file

from aggregator.admission import Judged, Verdict
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.records import row_of
from aggregator.ledger.restoring import restore
from aggregator.model_line import LineSettings, ModelLine, opening_release
from wire_contract.codec import decode, encode
from wire_contract.encoding import EncodingName, decode_vector, encode_vector
from wire_contract.layout import Layout, TensorSpec, Vector
from wire_contract.line_description import LINE_KEY, describe
from wire_contract.messages import Receipt, Update
from wire_contract.topics import ParsedTopic, build, parse

ROOT = "fedkd/v1"
TASK = "toy"
LAYOUT = Layout((TensorSpec("weight", (3, 4)), TensorSpec("bias", (4,))))
CHUNKED = Layout((TensorSpec("weight", (90, 100)), TensorSpec("bias", (1_000,))))
"""40 KB in float32: two chunks."""
FOLLOWED = Layout((TensorSpec("weight", (40, 60)), TensorSpec("bias", (300,))))
"""5.4 KB in float16: fits a manifest, and deltas save some of it."""
SETTINGS = LineSettings(task=TASK, updates_per_version=2, version_seconds=60.0, devices_min=1, model_encoding="float32")
T0 = 1_700_000_000.0


def initial_weights(layout: Layout = LAYOUT) -> Vector:
    return np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)


def begin(ledger: Ledger, settings: LineSettings = SETTINGS, layout: Layout = LAYOUT) -> ModelLine:
    """The line in a ledger, begun where it is empty."""
    if ledger.layout() is None:
        weights = initial_weights(layout)
        first = opening_release(settings, layout, weights, published_at=T0)
        ledger.begin_line(row_of(first), layout, weights)
    return restore(ledger, settings)


def write_initial_model(
    path: Path,
    layout: Layout = LAYOUT,
    *,
    task: str = TASK,
    role: str | None = "initial-model",
    labels: Sequence[str] | None = None,
) -> Path:
    """As `python -m device_client initial-model` does; without a role, or labels, as it did before there were any."""
    tensors = {name: view.copy() for name, view in layout.views(initial_weights(layout)).items()}
    order = json.dumps([[spec.name, list(spec.shape)] for spec in layout.tensors])
    said = {} if role is None else {"role": role}
    if labels is not None:
        said[LINE_KEY] = msgspec.json.encode(describe(labels, {})).decode()
    save_file(tensors, path, metadata={"task": task, "layout": order, **said})
    return path


@dataclass
class SyntheticDevice:
    """Makes updates as the contract wants them, from a seed of its own."""

    name: str
    layout: Layout = LAYOUT
    incarnation: bytes = b"incarn-1"
    encoding: EncodingName = "float32"
    sequences: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(sum(self.name.encode() + self.incarnation))

    def update(
        self, line: ModelLine | None = None, *, difference: Vector | None = None, samples: int = 10, **changes: Any
    ) -> Update:
        """The next one, based on the newest version of `line` unless `changes` say otherwise."""
        if difference is None:
            difference = 0.1 * self._random.standard_normal(self.layout.size).astype(np.float32)
        standing: dict[str, Any] = {}
        if line is not None:
            standing = {"base_version": line.version, "base_digest": line.release.published.digest}
        fields: dict[str, Any] = {
            "task": TASK,
            "device": self.name,
            "incarnation": self.incarnation,
            "layout_fingerprint": self.layout.fingerprint,
            "samples": samples,
            "local_steps": 1,
            "train_seconds": 1.0,
            **standing,
            **changes,
        }
        if "sequence" not in fields:
            fields["sequence"] = next(self.sequences)
        if "tensors" not in fields:
            fields["tensors"] = encode_vector(difference, self.layout, self.encoding)
        return Update(**fields)

    def payload(self, line: ModelLine | None = None, **changes: Any) -> bytes:
        return encode(self.update(line, **changes))

    @property
    def topic(self) -> str:
        return build("update", root=ROOT, task=TASK, shard=0, device=self.name)

    @property
    def parsed(self) -> ParsedTopic:
        return parse(self.topic, root=ROOT)

    @property
    def receipts(self) -> str:
        return build("receipt", root=ROOT, task=TASK, device=self.name)


def receipt(payload: bytes) -> Receipt:
    return decode(payload, Receipt)


def identities(path: Path) -> list[tuple[str, bytes, int]]:
    """Every update in the journal, in the order of merging."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT device, incarnation, sequence FROM journal ORDER BY id").fetchall()


def replay(path: Path, layout: Layout, weights: Vector, *, rate: float = 1.0) -> tuple[int, Vector]:
    """Newest version and its weights, summed from the journal by other code than the aggregator's."""
    with closing(sqlite3.connect(path)) as db:
        newest = db.execute("SELECT max(version) FROM version").fetchone()[0]
        for version in range(1, newest + 1):
            rows: list[tuple[str, float, float, bytes]] = db.execute(
                "SELECT device, weight, scale, payload FROM journal WHERE into_version = ? ORDER BY id", (version,)
            ).fetchall()
            assert rows, f"version {version} was made of nothing"
            total = np.zeros(layout.size, dtype=np.float32)
            of_devices: dict[str, list[float]] = {}
            for device, weight, scale, payload in rows:
                difference = decode_vector(decode(payload, Update).tensors, layout)
                total = total + difference * np.float32(weight * scale)
                of_devices.setdefault(device, []).append(weight)
            heaviest = [max(of_one) for of_one in of_devices.values()]
            # No slot of several has more than half.
            divisor = sum(heaviest) if len(heaviest) == 1 else max(sum(heaviest), 2 * max(heaviest))
            weights = weights + total * np.float32(rate / divisor)
        return newest, weights


def newest_weights(path: Path) -> Vector:
    """The newest snapshot in a ledger."""
    with closing(sqlite3.connect(path)) as db:
        blob = db.execute("SELECT weights FROM version ORDER BY version DESC LIMIT 1").fetchone()[0]
    return np.frombuffer(blob, dtype="<f4")


@dataclass(frozen=True, kw_only=True)
class Account:
    """One device's part in the line since the ledger began. Versions are those whose buffer took an update of it."""

    device: str
    first_version: int
    last_version: int
    versions: int
    updates: int
    samples: int
    slot_norm: float | None
    last_merged_at: float


def accounts(path: Path) -> list[Account]:
    """Of every device, the one whose update was merged last first."""
    names = [one.name for one in fields(Account)]
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(f"SELECT {', '.join(names)} FROM account ORDER BY last_journal_id DESC").fetchall()
    return [Account(**dict(zip(names, row, strict=True))) for row in rows]


def judged(device: str | None, verdict: Verdict, *, size_bytes: int = 1) -> Judged:
    """As if an update of that size had been judged; without a device it could not be read."""
    update = None if device is None else SyntheticDevice(device).update(base_version=0, base_digest=bytes(32))
    return Judged(verdict, update, 0, device or "somebody", bytes(size_bytes))
