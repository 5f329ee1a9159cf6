"""Sends the lines in the spool, oldest first, retrying without limit.

Delivery is at least once: after a crash the last lines are sent again, and the server overwrites equal points.
"""

import logging
from collections.abc import Callable, Iterator
from threading import Event

from aggregator.telemetry.influx import LinesRefused, NotAllowed, Server, ServerAway
from aggregator.telemetry.spool import Spool
from wire_contract.limits import KIB
from wire_contract.program.repeat_filter import RepeatFilter

log = logging.getLogger(__name__)

CHUNK_BYTES = 512 * KIB
"""Size of one write, about 2,000 lines. Chosen, not measured: larger writes need fewer requests, but take longer to
repeat over a slow line (`influx.WRITE_SECONDS_MAX`)."""
PIECES_MAX = 64
"""Writes spent on isolating the bad lines of one chunk; what is left of it then is dropped with them. Chosen, not
measured: halving isolates one bad line of 2,000 in some 22 writes, so about three bad lines are isolated."""
REST_SECONDS = 0.5
"""The first pause after a failure is drawn from 0 to this; the range doubles with each further failure."""
REST_SECONDS_MAX = 30.0
"""Chosen: a server that is back is noticed within half a minute, long before the spool is full."""
NOT_ALLOWED_SECONDS = 60.0
"""Chosen: a person has to repair this, and each attempt is an error in the server's log."""


class SpoolSender:
    """Sends in turns, in one thread."""

    def __init__(
        self,
        spool: Spool,
        server: Server,
        *,
        monotonic: Callable[[], float],
        uniform: Callable[[float, float], float],
    ) -> None:
        self._spool = spool
        self._server = server
        self._monotonic = monotonic
        self._uniform = uniform
        self._rest = REST_SECONDS
        self._told = RepeatFilter(monotonic)
        self._told_of_bad_lines = False
        self.failures = 0
        """Number of failed attempts."""
        self.write_seconds: float | None = None
        """Duration of the newest successful write."""
        self.is_up: bool | None = None
        """Whether the newest attempt succeeded; None before the first."""

    def turn(self, stop: Event) -> float:
        """Sends everything; returns the seconds to pause before the next turn, 0 if there was no failure."""
        while not stop.is_set():
            chunk = self._spool.read(CHUNK_BYTES)
            if chunk is None:
                return 0.0
            began = self._monotonic()
            try:
                dropped = self._write(chunk.data)
            except ServerAway as error:
                return self._failed(error)
            self._spool.advance(chunk, dropped=dropped)
            self.write_seconds = self._monotonic() - began
            self._succeeded()
        return 0.0

    def _write(self, data: bytes) -> int:
        """Handles lines that the server refuses.

        Raises:
            ServerAway: the rest was not written.
        """
        try:
            self._server.write(data)
        except LinesRefused as error:
            dropped, example = self._write_in_pieces(data)
            if dropped and not self._told_of_bad_lines:
                self._told_of_bad_lines = True
                log.warning(
                    "telemetry server %s; %d points dropped, for one %s; further ones are only counted",
                    error,
                    dropped,
                    example,
                )
            return dropped
        return 0

    def _write_in_pieces(self, data: bytes) -> tuple[int, str]:
        """Halves refused chunks, so that only bad lines are lost; returns their number and one of them."""
        dropped, example = 0, ""
        waiting = list(_halves(data))[::-1]
        writes = 0
        while waiting:
            piece = waiting.pop()
            writes += 1
            try:
                self._server.write(piece)
            except LinesRefused as error:
                lines = piece.count(b"\n")
                if lines > 1 and (writes < PIECES_MAX or error.too_large):
                    waiting += list(_halves(piece))[::-1]
                else:
                    dropped += lines
                    example = example or piece.split(b"\n", 1)[0].decode(errors="replace")[:200]
        return dropped, example

    def _succeeded(self) -> None:
        if self._told.is_unresolved:
            log.info("telemetry is being sent again")
            self._told.resolve()
        self._rest, self.is_up = REST_SECONDS, True

    def _failed(self, error: ServerAway) -> float:
        self.failures += 1
        self.is_up = False
        if self._told.passes(str(error)):
            hint = "; check its token, organisation and bucket" if isinstance(error, NotAllowed) else ""
            log.warning("telemetry server %s%s; points wait in the spool", error, hint)
        if isinstance(error, NotAllowed):
            return NOT_ALLOWED_SECONDS * self._uniform(0.5, 1.0)
        rest = self._uniform(0.0, self._rest)
        self._rest = min(2 * self._rest, REST_SECONDS_MAX)
        return rest


def _halves(data: bytes) -> Iterator[bytes]:
    lines = data.splitlines(keepends=True)
    middle = len(lines) // 2
    for part in (lines[:middle], lines[middle:]):
        if part:
            yield b"".join(part)
