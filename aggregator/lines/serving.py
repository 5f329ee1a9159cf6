"""Serves all lines of a task, in turn, in one thread and over one connection.

`begin-line` and `close-line` change only files. The loop looks at these once a second, so both take effect on a running
aggregator, and after a restart alike.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aggregator.ledger.ledger import Ledger
from aggregator.lines.ledgers import path_of_line
from aggregator.lines.shared_link import SharedLink
from aggregator.publishing.ownership import LineRefused
from aggregator.service import Service
from wire_contract.errors import ContractError
from wire_contract.lines import line_name
from wire_contract.link.protocol import Link

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the loop looks for a new or a closed line. Chosen: an operator who ran the command sees the effect at once,
and it costs one `stat` and one query for each line."""
RETRY_SECONDS = 60.0
"""How soon a ledger that could not be opened is tried again. Chosen: it is logged each time."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """One line that is being served."""

    name: str
    service: Service
    ledger: Ledger
    close: Callable[[], object]
    """Closes the ledger and what else belongs to this line only."""


Serve = Callable[[str, Path, Link], Served]
"""Opens the line with this name in this ledger, to be served over this link."""


class Lines:
    """The lines of one task. A fault of a later line never ends an older one, whose devices are at work."""

    def __init__(
        self, first: Served, *, shared: SharedLink, ledger: Path, serve: Serve, monotonic: Callable[[], float]
    ) -> None:
        """`first` is the first line, which uses `shared`, and `ledger` the path of its ledger; nothing else is opened
        before the first step.
        """
        self._first = first
        self._served = [first]
        self._newest, self._number = first, 1
        self._shared = shared
        self._ledger = ledger
        self._serve = serve
        self._monotonic = monotonic
        self._look_at = -math.inf
        self._open_at = -math.inf

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Runs until a stop is requested.

        Raises:
            LineRefused: another line is on the first line's topics; nothing was changed there.
            LinkError: the link's thread died.
        """
        while not should_stop():
            self.step(should_stop)

    def step(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """One turn of each line."""
        if self._monotonic() >= self._look_at:
            self._look_at = self._monotonic() + LOOK_SECONDS
            self._look()
        for one in list(self._served):
            try:
                one.service.step(should_stop)
            except LineRefused as error:
                if one is self._first:
                    raise
                log.error("line %s is not served: %s", one.name, error)  # noqa: TRY400 - the message says it all
                self._leave(one)

    def farewell(self) -> None:
        """Publishes the status `offline` of each line."""
        for one in self._served:
            one.service.farewell()

    def close(self) -> None:
        """Closes all ledgers but the first line's, which belongs to the caller."""
        for one in self._served[1:]:
            self._leave(one)

    def _look(self) -> None:
        while self._monotonic() >= self._open_at and self._open_next():
            pass
        for one in self._served:
            if one.ledger.is_closed() and not one.service.line.is_closed:
                log.info("line %s is closed: further updates are refused", one.name)
                one.service.line.close()
                one.service.line_changed()

    def _open_next(self) -> bool:
        """Begins to serve the line after the newest one, if there is one."""
        path = path_of_line(self._ledger, self._number + 1)
        if not path.exists():
            return False
        name = line_name(self._first.name, self._number + 1)
        try:
            served = self._serve(name, path, self._shared.of(name))
        except ContractError as error:
            self._shared.remove(name)
            self._open_at = self._monotonic() + RETRY_SECONDS
            log.error("line %s is not served: %s; trying again in a minute", name, error)  # noqa: TRY400
            return False
        log.info("serving line %s, which follows %s", name, self._newest.name)
        self._newest.service.line.next_line = name
        self._newest.service.line_changed()
        self._served.append(served)
        self._newest, self._number = served, self._number + 1
        return True

    def _leave(self, one: Served) -> None:
        self._served.remove(one)
        self._shared.remove(one.name)
        one.close()
