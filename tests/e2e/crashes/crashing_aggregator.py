"""The aggregator program with SIGKILL at a chosen point.

    python -m tests.e2e.crashes.crashing_aggregator POINT COUNT …

It is killed the COUNT-th time it comes to POINT; the rest of the arguments are the aggregator's.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from aggregator.__main__ import main
from aggregator.ledger.ledger import Ledger
from aggregator.publishing.publisher import Publisher

POINTS: dict[str, tuple[type, str, bool, Callable[..., bool]]] = {
    # name: class, method, killed before it, which calls count
    "between merge and commit": (Ledger, "commit_batch", True, lambda _, batch, **__: bool(batch.merged)),
    "between commit and acknowledgement": (Ledger, "commit_batch", False, lambda _, batch, **__: bool(batch.merged)),
    "between commit and receipt": (Publisher, "receipt", True, lambda *_: True),
    "before the version's commit": (Ledger, "commit_version", True, lambda *_, **__: True),
    "between the version's commit and its publication": (Ledger, "commit_version", False, lambda *_, **__: True),
    "between the first chunk and the manifest": (
        Publisher,
        "_send",
        True,
        lambda _, topic, payload, **__: bool(payload) and "/model/" in topic and topic.endswith("/1"),
    ),
}


def die_at(point: str, count: int) -> None:
    """Makes this process end there."""
    kind, name, before, counts = POINTS[point]
    whole = getattr(kind, name)
    calls = 0

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += counts(*arguments, **named)
        now = calls >= count and counts(*arguments, **named)
        if now and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(*arguments, **named)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(kind, name, dying)


if __name__ == "__main__":
    die_at(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
