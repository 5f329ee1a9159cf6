"""Both views of a running demo: plain lines and the live table."""

import io

from rich.console import Console

from simulators.reporting.frame import sparkline
from simulators.reporting.live_view import LiveView, PlainView
from simulators.reporting.snapshot import DeviceRow, Snapshot


def snapshot(stage: str = "federation") -> Snapshot:
    row = DeviceRow(
        name="person-03",
        title="fast",
        state="offline",
        detail=" (2 kept)",
        base_version=4,
        staleness_last=1,
        waiting=2,
        merged=5,
        bytes_up=21_000,
        bytes_down=42_000,
    )
    return Snapshot(
        stage=stage,
        seconds=12.0,
        version=6,
        versions_planned=60,
        values=(0.1, 0.5, 0.812),
        evaluated_version=6,
        merged=18,
        staleness_mean=1.5,
        devices=(row,),
        notes=("pooled data 87.6%",),
    )


def test_plain_lines_come_at_their_pace_and_with_each_stage() -> None:
    lines: list[str] = []
    now = [0.0]
    with PlainView(lines.append, clock=lambda: now[0]) as view:
        view.show(snapshot())
        now[0] = 4.9
        view.show(snapshot())
        view.news(5.0, "person-03 is back")
        view.show(snapshot("outboxes drain"))
        now[0] = 10.0
        view.show(snapshot("outboxes drain"))
    assert len(lines) == 4
    assert "version 6/60" in lines[0]
    assert "person-03 offline" in lines[0]
    assert lines[1].endswith("person-03 is back")


def test_live_view_shows_what_matters() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    with LiveView(console) as view:
        view.news(3.0, "person-03 has lost its connection")
        view.show(snapshot())
    shown = out.getvalue()
    for expected in ("version 6 of 60", "81.2%", "person-03", "● offline (2 kept)", "18 updates merged", "pooled data"):
        assert expected in shown


def test_sparkline_is_bounded() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert len(sparkline([0.5] * 500, columns=40)) == 40
