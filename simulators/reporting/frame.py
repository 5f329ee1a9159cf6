"""One frame of the live view: a snapshot drawn for a terminal of any size.

What does not fit is left out, the least important first: in width, columns of the table; in height, news, then notes,
then devices.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from simulators.reporting.device_timeline import State
from simulators.reporting.metric_text import value_text, words
from simulators.reporting.snapshot import DeviceRow, Snapshot

NEWS_KEPT = 5
_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARK_COLUMNS = 40
_SPARK_COLUMNS_MIN = 10
"""Shorter bars are not drawn."""
_FRAME_COLUMNS, _FRAME_LINES = 4, 2
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


@dataclass(frozen=True)
class _Column:
    """One column of the device table."""

    heading: str
    cell: Callable[[DeviceRow], str]
    columns_max: int = 20
    """Longer cells are truncated."""
    columns_min: int = 0
    is_number: bool = True


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


_SHOWN: Sequence[_Column] = (
    _Column("device", lambda row: row.name, is_number=False),
    _Column("profile", lambda row: row.title, columns_max=30, is_number=False),
    # Wide enough for most states from the start, so that the table does not change its width.
    _Column("state", lambda row: f"● {row.state}{row.detail}", columns_min=17, columns_max=30, is_number=False),
    _Column("base", lambda row: _or_dash(row.base_version)),
    _Column("stale", lambda row: _or_dash(row.staleness_last)),
    _Column("outbox", lambda row: str(row.waiting)),
    _Column("merged", lambda row: str(row.merged)),
    _Column("kB up", lambda row: f"{row.bytes_up / _KB:.0f}"),
    _Column("kB down", lambda row: f"{row.bytes_down / _KB:.0f}"),
)
"""In the order of the table."""
_BY_IMPORTANCE = ("device", "state", "merged", "profile", "base", "stale", "outbox", "kB up", "kB down")


@dataclass(frozen=True)
class Frame:
    """One frame, as large as the terminal allows."""

    snapshot: Snapshot
    news: Sequence[str] = ()
    """Lines of text, the newest last."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = max(1, options.max_width - _FRAME_COLUMNS)
        # The cursor needs one line: a frame that fills the last line makes the terminal scroll.
        lines_left = max(1, options.size.height - _FRAME_LINES - 1)
        parts = _head(self.snapshot, columns)[:lines_left]
        lines_left -= len(parts)
        rows = self.snapshot.devices
        if rows and lines_left > 1:
            parts.append(_table(_fitting(rows, columns), rows[: lines_left - 1]))
            lines_left -= 1 + len(rows[: lines_left - 1])
        below = [_line(" · ".join(self.snapshot.notes), "dim")] if self.snapshot.notes else []
        left_for_news = max(0, lines_left - len(below))
        below += [_line(text) for text in self.news[-left_for_news:]] if left_for_news else []
        page = f"live page: {self.snapshot.page_url}" if self.snapshot.page_url else None
        yield Panel(
            Group(*parts, *below[: max(0, lines_left)]),
            title=_line("asyncfedkd · asynchronous federated distillation over MQTT", "bold"),
            title_align="left",
            subtitle=None if page is None else _line(page),
            subtitle_align="left",
            border_style="blue",
            padding=(0, 1),
        )


def _line(text: str, style: str = "") -> Text:
    """The text on one line; non-printable characters become spaces."""
    return Text(_printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _head(snapshot: Snapshot, columns: int) -> list[RenderableType]:
    """Stage, progress, main metric and counts, one line each."""
    progress = measured = ""
    if snapshot.version >= 0:
        progress = _progress(snapshot)
    if snapshot.values:
        # The direction needs the room of the persons: on 80 columns, the picture of the curve still fits.
        where = (
            f"on unseen {snapshot.person}s (version" if snapshot.main.higher_is_better else "(lower is better; version"
        )
        measured = f"{metric_text(snapshot)} {where} {snapshot.evaluated_version})"
    pictures = min(_SPARK_COLUMNS, columns - 2 - max(cell_len(progress), cell_len(measured)))
    parts: list[RenderableType] = [_line(f"{snapshot.stage}  {snapshot.seconds:.0f} s", "bold")]
    if pictures < _SPARK_COLUMNS_MIN:
        parts += [_line(text) for text in (progress, measured) if text]
    else:
        if progress:
            parts.append(
                _beside(ProgressBar(total=1.0, completed=_share(snapshot), width=pictures), pictures, progress)
            )
        if measured:
            parts.append(_beside(_line(sparkline(_heights(snapshot), pictures), "green"), pictures, measured))
    if snapshot.devices:
        stale = "" if snapshot.staleness_mean is None else f", mean staleness {snapshot.staleness_mean:.1f}"
        counts = (
            f"{snapshot.merged} updates merged{stale}, {snapshot.duplicates} duplicates, {snapshot.refused} refused"
        )
        parts.append(_line(counts))
    return parts


def metric_text(snapshot: Snapshot) -> str:
    """Name and newest value of the main metric."""
    value = snapshot.values[-1]
    return f"{words(snapshot.main)} {value_text(value, as_share=snapshot.main.is_share_at(value))}"


def _heights(snapshot: Snapshot) -> Sequence[float]:
    """The values as heights from 0 to 1: shares as they are, other numbers between the lowest and the highest."""
    values = snapshot.values
    if snapshot.main.is_share_at(*values):
        return values
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def _progress(snapshot: Snapshot) -> str:
    """Draining the outboxes at the end can add versions beyond the planned ones."""
    if snapshot.versions_planned is None:
        return f"version {snapshot.version}"
    if snapshot.version > snapshot.versions_planned:
        return f"version {snapshot.version} ({snapshot.versions_planned} planned)"
    return f"version {snapshot.version} of {snapshot.versions_planned}"


def _beside(picture: RenderableType, columns: int, text: str) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=columns)
    grid.add_column(no_wrap=True)
    grid.add_row(picture, _line(text))
    return grid


def _share(snapshot: Snapshot) -> float:
    """Published share of the planned versions, 0 to 1; 0 while their number is unknown."""
    return min(1.0, snapshot.version / snapshot.versions_planned) if snapshot.versions_planned else 0.0


def _fitting(rows: Sequence[DeviceRow], columns: int) -> list[tuple[_Column, int]]:
    """The columns that fit, with their widths; the most important one is always included."""
    widths: dict[str, int] = {}
    left = columns
    by_heading = {column.heading: column for column in _SHOWN}
    for heading in _BY_IMPORTANCE:
        column = by_heading[heading]
        needed = max(len(heading), column.columns_min, *(cell_len(_printable(column.cell(row))) for row in rows))
        width = min(needed, column.columns_max)
        if not widths:
            width = min(width, max(1, columns))
        if width <= left:
            widths[heading] = width
            left -= width + 1
    return [(column, widths[column.heading]) for column in _SHOWN if column.heading in widths]


def _table(shown: Sequence[tuple[_Column, int]], rows: Sequence[DeviceRow]) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for column, width in shown:
        table.add_column(
            column.heading,
            width=width,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if column.is_number else "left",
            style="dim" if column.heading == "profile" else "",
        )
    for row in rows:
        styles = {"state": STYLES[row.state]}
        table.add_row(*(_line(column.cell(row), styles.get(column.heading, "")) for column, _ in shown))
    return table


def sparkline(values: Sequence[float], columns: int = _SPARK_COLUMNS) -> str:
    """Values from 0 to 1 as block characters, the newest at the right; more values than columns are thinned out.

    NaN is left blank.
    """
    if len(values) > columns:
        values = [values[round(at * (len(values) - 1) / (columns - 1))] for at in range(columns)]
    top = len(_BLOCKS) - 1
    return "".join(
        " " if math.isnan(value) else _BLOCKS[min(top, int(min(1.0, max(0.0, value)) * len(_BLOCKS)))]
        for value in values
    )
