"""Shows a running demo: a live table on a terminal, plain lines otherwise."""

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live

from simulators.reporting.frame import NEWS_KEPT, Frame, metric_text
from simulators.reporting.snapshot import Snapshot

PLAIN_SECONDS = 5.0
"""Between two lines in the same stage."""
FRAME_SECONDS = 0.25
"""Between two frames; drawing takes CPU time that the devices need."""


class View(Protocol):
    """What both views can do."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def news(self, seconds: float, text: str) -> None:
        """Reports an event."""

    def show(self, snapshot: Snapshot) -> None:
        """Shows the current state; may be called often."""


class PlainView:
    """One line at a time, for logs and pipes."""

    def __init__(
        self,
        write: Callable[[str], object] = lambda line: print(line, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._clock = clock
        self._shown_at: float | None = None
        self._stage = ""
        self._page_url = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def news(self, seconds: float, text: str) -> None:
        self._write(f"{seconds:6.1f} s  {text}")

    def show(self, snapshot: Snapshot) -> None:
        now = self._clock()
        if snapshot.page_url and snapshot.page_url != self._page_url:
            self._page_url = snapshot.page_url
            self.news(snapshot.seconds, f"live page, while the demo runs: {snapshot.page_url}")
        if snapshot.stage == self._stage and self._shown_at is not None and now - self._shown_at < PLAIN_SECONDS:
            return
        self._stage, self._shown_at = snapshot.stage, now
        self._write(f"{snapshot.seconds:6.1f} s  {plain_line(snapshot)}")


def plain_line(snapshot: Snapshot) -> str:
    """The snapshot in one line."""
    parts = [snapshot.stage]
    if snapshot.version >= 0:
        planned = "" if snapshot.versions_planned is None else f"/{snapshot.versions_planned}"
        parts.append(f"version {snapshot.version}{planned}")
    if snapshot.values:
        parts.append(metric_text(snapshot))
    if snapshot.devices:
        parts.append(f"{snapshot.merged} merged, {snapshot.refused} refused")
        away = [f"{row.name} {row.state}" for row in snapshot.devices if row.state in {"offline", "killed", "held"}]
        parts += away
    return " · ".join([*parts, *snapshot.notes])


class LiveView:
    """A table that is redrawn in place."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console()
        self._clock = clock
        self._shown_at = -FRAME_SECONDS
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._news: deque[str] = deque(maxlen=NEWS_KEPT)
        self._scene: Snapshot | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._scene is not None:  # the last frame stays on the screen
            self._live.update(Frame(self._scene, tuple(self._news)))
        self._live.stop()

    def news(self, seconds: float, text: str) -> None:
        self._news.append(f"{seconds:6.1f} s  {text}")

    def show(self, snapshot: Snapshot) -> None:
        self._scene = snapshot
        now = self._clock()
        if now - self._shown_at >= FRAME_SECONDS:
            self._shown_at = now
            self._live.update(Frame(snapshot, tuple(self._news)), refresh=True)


def make_view(*, plain: bool) -> View:
    """The live view on a terminal that can draw it; plain lines otherwise."""
    console = Console()
    can_draw = console.is_terminal and not console.is_dumb_terminal and console.encoding.lower().startswith("utf")
    return LiveView(console) if can_draw and not plain else PlainView()
