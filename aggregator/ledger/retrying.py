"""Retries ledger operations while the disk is full or another program has locked the ledger."""

import logging
import random
from collections.abc import Callable
from typing import TypeVar

from aggregator.ledger.file_format import LedgerBusy
from wire_contract.program.health import Heartbeat

log = logging.getLogger(__name__)

RETRY_SECONDS_MAX = 15.0
"""Chosen, not measured: well within the 120 s after which a silent loop counts as hung (`health.AGE_SECONDS_MAX`), as
the heartbeat is written between attempts; shorter pauses would only load a full disk."""

Result = TypeVar("Result")


def retry_while_busy(
    attempt: Callable[[], Result],
    *,
    heartbeat: Heartbeat,
    pause: Callable[[float], None],
    should_stop: Callable[[], bool],
) -> Result | None:
    """Repeats `attempt` while the ledger is busy, with growing pauses; logs it once and reports it at every heartbeat.

    Returns:
        The result of the attempt; None if a stop was requested first.
    """
    jitter = random.Random(0)  # noqa: S311 - spreads retries, guards nothing
    delay = 0.5
    complained = False
    while True:
        try:
            result = attempt()
        except LedgerBusy as error:
            if not complained:
                log.error("%s; waiting, nothing is lost", error)  # noqa: TRY400 - one clear line
                complained = True
            if should_stop():
                return None
            heartbeat(trouble=str(error))
            pause(jitter.uniform(0, delay))
            delay = min(2 * delay, RETRY_SECONDS_MAX)
        else:
            if complained:
                log.info("the ledger can be written again")
            return result
