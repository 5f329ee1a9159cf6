"""`move-forward`: continues a restored older ledger above every version that devices have seen.

Devices that pin keys refuse models older than the newest they have accepted, and cannot tell a restored ledger from a
rollback attack. So the same weights get a higher version number, once, while no aggregator runs. Devices need no
change.
"""

from collections.abc import Callable
from pathlib import Path

from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_task
from aggregator.ledger.records import row_of
from aggregator.ledger.restoring import restore
from aggregator.model_line import LineSettings
from wire_contract.publication.release import first_release


def move_forward(path: Path, *, version: int, shard: int, unix: Callable[[], float]) -> int:
    """Gives the newest weights of the ledger the number `version`; returns their previous number.

    Buffered updates go into the version after it.

    Raises:
        LedgerError: the ledger cannot be used, or has this version already.
    """
    task = read_task(path)
    with Ledger(path, task=task, shard=shard) as ledger:
        if ledger.layout() is None:
            raise LedgerError(f"ledger {path} has no model yet; run the aggregator once")
        line = restore(ledger, LineSettings(task=task))
        before = line.version
        if version <= before:
            raise LedgerError(f"ledger {path} is at version {before}; give a --version above it")
        release = first_release(
            line.weights,
            task=task,
            layout=line.layout,
            encoding=line.release.encoding,
            published_at=unix(),
            version=version,
            parent=before,
        )
        ledger.move_forward(row_of(release), line.weights, before=before)
    return before
