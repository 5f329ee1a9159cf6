"""Restart: rebuilds the model line, and everything that is published, from the ledger, bit for bit.

It takes the newest weights and the state of the merging rule, then adds the journal's updates for the next version in
the order of merging: the same additions on the same bits give the same weights.
"""

from typing import cast

import numpy as np

from aggregator.admission import norm_of
from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.records import VersionRow
from aggregator.merging.peers import PEERS_MAX
from aggregator.merging.rule import Contribution
from aggregator.model_line import LineSettings, ModelLine
from wire_contract.encoding import ENCODERS, EncodingName, decode_vector
from wire_contract.errors import DecodeError
from wire_contract.layout import Layout
from wire_contract.limits import MOMENT_MAX
from wire_contract.messages import Update
from wire_contract.publication.manifest import decode_snapshot
from wire_contract.publication.release import Release
from wire_contract.signatures.envelope import read_unverified


def restore(ledger: Ledger, settings: LineSettings) -> ModelLine:
    """The model line of a ledger that has at least version 0.

    Raises:
        LedgerError: the ledger is damaged.
    """
    layout = ledger.layout()
    assert layout is not None, "begin the line first"
    row, weights = ledger.newest()
    release = _restore_release(ledger, row, layout)
    if weights.size != layout.size:
        raise LedgerError(f"ledger {ledger.path} is damaged: version {row.version} has {weights.size} weights")
    line = ModelLine(
        settings,
        release,
        weights,
        digests=ledger.digests(since=row.version - settings.policy.staleness_max),
        lasts=ledger.last_of_devices(),
        contributed=ledger.contributed(since=0, until=row.version),
        claims=ledger.claims(PEERS_MAX, until=row.version),
        recall=ledger.last_merged,
        horizon=ledger.horizon,
        description=ledger.description(),
    )
    try:
        line.buffer.restore(ledger.rule_state(settings.rule.name))
    except ValueError as error:
        raise LedgerError(f"ledger {ledger.path} is damaged: state of rule {settings.rule.name}: {error}") from None
    _refill(line, ledger)
    return line


def _refill(line: ModelLine, ledger: Ledger) -> None:
    """Adds the journal's updates for the next version to the buffer."""
    difference = np.empty(line.layout.size, dtype=np.float32)
    weights, statistics = np.split(difference, [line.layout.weights_size])
    for one in ledger.journal(into_version=line.version + 1):
        try:
            decode_vector(read_unverified(one.payload, Update).tensors, line.layout, out=difference)
        except DecodeError as error:
            raise LedgerError(f"ledger {ledger.path} is damaged: an update of {one.device}: {error}") from None
        line.buffer.add(
            Contribution(
                device=one.device,
                unclipped=weights,
                weight=one.weight,
                scale=one.scale,
                norm=norm_of(weights) if one.norm is None else one.norm,
                samples=one.samples,
                base_version=one.base_version,
                staleness=one.staleness,
                statistics=statistics,
                statistics_norm=one.statistics_norm or 0.0,
                statistics_scale=one.statistics_scale,
            )
        )


def _restore_release(ledger: Ledger, row: VersionRow, layout: Layout) -> Release:
    """In the encoding that it was committed with, whatever the settings are now: updates name its digest."""
    if row.encoding not in ENCODERS:
        raise LedgerError(f"ledger {ledger.path}: encoding {row.encoding!r} is not known here; update this program")
    snapshot = ledger.newest_snapshot()
    if row.model is None or snapshot.model is None:
        raise LedgerError(f"ledger {ledger.path} is damaged: its newest versions have no model messages")
    try:
        published = decode_snapshot(row.model)
    except DecodeError as error:
        raise LedgerError(f"ledger {ledger.path} is damaged: {error}") from None
    if (published.version, published.digest, published.layout) != (row.version, row.digest, layout):
        raise LedgerError(f"ledger {ledger.path} is damaged: the model message of version {row.version} is another's")
    return Release(
        published=published,
        parent=row.parent,
        encoding=cast("EncodingName", row.encoding),
        published_at=min(row.committed_at, float(MOMENT_MAX)),  # an older release may have stored any time
        model=row.model,
        snapshot_version=snapshot.version,
        snapshot=snapshot.model,
        deltas=tuple(delta for _, delta in ledger.deltas()),
    )
