"""What somebody sees who looks on: a live table on a terminal, plain lines everywhere else."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from simulators.story import State

PLAIN_SECONDS = 5.0
"""Between two lines of the same stage."""
FRAME_SECONDS = 0.25
"""Drawing costs computing, which the devices need more."""
_NEWS_KEPT = 5
_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARK_COLUMNS = 40
_KB = 1_000

STYLES: dict[State, str] = {
    "starting": "dim",
    "training": "green",
    "waiting": "dim",
    "sending": "cyan",
    "held": "yellow",
    "offline": "red",
    "killed": "bold red",
    "done": "dim green",
}


@dataclass(frozen=True, kw_only=True)
class DeviceRow:
    """One device now."""

    name: str
    title: str
    state: State
    detail: str
    base_version: int | None
    staleness_last: int | None
    """Of its last merged update."""
    waiting: int
    """Updates in its outbox."""
    merged: int
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything now."""

    stage: str
    seconds: float
    version: int
    """-1 before the first."""
    versions_planned: int | None
    """None until it is known; the aggregator publishes version 0 before that."""
    accuracies: Sequence[float] = ()
    accuracy_version: int | None = None
    merged: int = 0
    duplicates: int = 0
    refused: int = 0
    staleness_mean: float | None = None
    devices: Sequence[DeviceRow] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    """Short facts for the last line."""
    page_url: str = ""
    """Where the same is to be seen in a browser; empty: nowhere."""


class View(Protocol):
    """Both kinds."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def news(self, seconds: float, text: str) -> None:
        """Something happened."""

    def show(self, scene: Scene) -> None:
        """How things stand; may be called often."""


class PlainView:
    """Lines, for logs and pipes."""

    def __init__(
        self,
        write: Callable[[str], object] = lambda line: print(line, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._clock = clock
        self._shown_at: float | None = None
        self._stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def news(self, seconds: float, text: str) -> None:
        self._write(f"{seconds:6.1f} s  {text}")

    def show(self, scene: Scene) -> None:
        now = self._clock()
        if scene.stage == self._stage and self._shown_at is not None and now - self._shown_at < PLAIN_SECONDS:
            return
        self._stage, self._shown_at = scene.stage, now
        self._write(f"{scene.seconds:6.1f} s  {plain_line(scene)}")


def plain_line(scene: Scene) -> str:
    """The scene in one line."""
    parts = [scene.stage]
    if scene.version >= 0:
        planned = "" if scene.versions_planned is None else f"/{scene.versions_planned}"
        parts.append(f"version {scene.version}{planned}")
    if scene.accuracies:
        parts.append(f"accuracy {scene.accuracies[-1]:.3f}")
    if scene.devices:
        parts.append(f"{scene.merged} merged, {scene.refused} refused")
        away = [f"{row.name} {row.state}" for row in scene.devices if row.state in {"offline", "killed", "held"}]
        parts += away
    return " · ".join([*parts, *scene.notes])


class LiveView:
    """A table that is drawn again and again."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console()
        self._clock = clock
        self._shown_at = -FRAME_SECONDS
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._news: deque[str] = deque(maxlen=_NEWS_KEPT)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def news(self, seconds: float, text: str) -> None:
        self._news.append(f"[dim]{seconds:6.1f} s[/]  {escape(text)}")

    def show(self, scene: Scene) -> None:
        now = self._clock()
        if now - self._shown_at >= FRAME_SECONDS:
            self._shown_at = now
            self._live.update(render(scene, tuple(self._news)), refresh=True)


def render(scene: Scene, news: Sequence[str]) -> RenderableType:
    """One frame."""
    parts: list[RenderableType] = [_head(scene)]
    if scene.devices:
        parts.append(_devices(scene))
    if scene.notes:
        parts.append(Text(" · ".join(scene.notes), style="dim"))
    parts += [Text.from_markup(line, overflow="ellipsis") for line in news]
    title = "[bold]asyncfedkd[/] · asynchronous federated distillation over MQTT"
    page = f"in a browser: {escape(scene.page_url)}" if scene.page_url else None
    return Panel(
        Group(*parts),
        title=title,
        title_align="left",
        subtitle=page,
        subtitle_align="left",
        border_style="blue",
        padding=(0, 1),
    )


def _head(scene: Scene) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text(scene.stage, style="bold"), Text(f"{scene.seconds:.0f} s", style="dim"))
    if scene.version >= 0:
        planned = "" if scene.versions_planned is None else f" of {scene.versions_planned}"
        grid.add_row(
            ProgressBar(total=1.0, completed=_share(scene), width=_SPARK_COLUMNS),
            Text(f"version {scene.version}{planned}"),
        )
    if scene.accuracies:
        facts = f"accuracy {scene.accuracies[-1]:.1%} on persons never seen (version {scene.accuracy_version})"
        grid.add_row(Text(sparkline(scene.accuracies), style="green"), Text(facts))
    if scene.devices:
        stale = "" if scene.staleness_mean is None else f", mean staleness {scene.staleness_mean:.1f}"
        grid.add_row(
            Text(f"{scene.merged} updates merged{stale}"),
            Text(f"{scene.duplicates} duplicates, {scene.refused} refused", style="dim"),
        )
    return grid


def _share(scene: Scene) -> float:
    """Of the planned versions, 0 to 1; 0 while nobody knows how many are planned."""
    return min(1.0, scene.version / scene.versions_planned) if scene.versions_planned else 0.0


def _devices(scene: Scene) -> RenderableType:
    table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
    table.add_column("device", no_wrap=True)
    table.add_column("character", no_wrap=True, style="dim", ratio=1, overflow="ellipsis")
    table.add_column("state", no_wrap=True, min_width=24)
    for heading in ("base", "stale", "outbox", "merged", "kB up", "kB down"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in scene.devices:
        table.add_row(
            Text(row.name),
            Text(row.title),
            Text(f"● {row.state}{row.detail}", style=STYLES[row.state], overflow="ellipsis"),
            "-" if row.base_version is None else str(row.base_version),
            "-" if row.staleness_last is None else str(row.staleness_last),
            str(row.waiting),
            str(row.merged),
            f"{row.bytes_up / _KB:.0f}",
            f"{row.bytes_down / _KB:.0f}",
        )
    return table


def sparkline(values: Sequence[float], columns: int = _SPARK_COLUMNS) -> str:
    """The values 0 to 1 as blocks, the newest at the right; more values than columns are thinned out.

    What is not a number is left blank.
    """
    if len(values) > columns:
        values = [values[round(at * (len(values) - 1) / (columns - 1))] for at in range(columns)]
    top = len(_BLOCKS) - 1
    return "".join(
        " " if math.isnan(value) else _BLOCKS[min(top, int(min(1.0, max(0.0, value)) * len(_BLOCKS)))]
        for value in values
    )


def make_view(*, plain: bool) -> View:
    """The live one where there is a terminal to draw on."""
    console = Console()
    return PlainView() if plain or not console.is_terminal or console.is_dumb_terminal else LiveView(console)
