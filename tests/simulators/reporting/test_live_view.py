"""Every snapshot that can occur is drawn, on a terminal of any size."""

import io
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from simulators.demo.plan import PROFILES
from simulators.reporting.device_timeline import State
from simulators.reporting.frame import Frame
from simulators.reporting.live_view import LiveView, PlainView, plain_line
from simulators.reporting.snapshot import DeviceRow, Snapshot
from wire_contract.main_metric import ACCURACY, MainMetric

COUNTS = st.one_of(st.integers(0, 300), st.integers(0, 2**63))
MAE = MainMetric("mae", higher_is_better=False)
PERPLEXITY = MainMetric("perplexity", higher_is_better=False)
NAMES = st.one_of(
    st.sampled_from(["person-03", "[bold]", "[/]", "w" * 64, "デバイス", "a\nb", ""]), st.text(max_size=80)
)
SIZES = [(100, 30), (80, 24), (40, 10), (20, 5), (250, 80)]

ROWS = st.builds(
    DeviceRow,
    name=NAMES,
    title=NAMES,
    state=st.sampled_from(get_args(State)),
    detail=NAMES,
    base_version=st.none() | COUNTS,
    staleness_last=st.none() | COUNTS,
    waiting=COUNTS,
    merged=COUNTS,
    bytes_up=COUNTS,
    bytes_down=COUNTS,
)
SNAPSHOTS = st.builds(
    Snapshot,
    stage=NAMES,
    seconds=st.floats(0, 1e9),
    version=st.integers(-1, 300) | COUNTS,
    versions_planned=st.none() | COUNTS,
    main=st.sampled_from([ACCURACY, MAE, PERPLEXITY, MainMetric("m" * 64, higher_is_better=False)]),
    values=st.lists(st.floats(0, 1) | st.floats(), max_size=300),
    evaluated_version=st.none() | COUNTS,
    merged=COUNTS,
    duplicates=COUNTS,
    refused=COUNTS,
    staleness_mean=st.none() | st.floats(0, 1e9),
    devices=st.lists(ROWS, max_size=12),
    notes=st.lists(NAMES, max_size=3),
    page_url=st.sampled_from(["", "http://127.0.0.1:8090/"]) | NAMES,
)
NOTHING_YET = Snapshot(stage="data and broker", seconds=0.0, version=-1, versions_planned=None)
VERSION_WITHOUT_A_PLAN = Snapshot(stage="teacher", seconds=3.0, version=0, versions_planned=None)


def drawn(snapshot: Snapshot, columns: int, rows: int, *news: str) -> list[str]:
    """The lines of one frame."""
    console = Console(file=io.StringIO(), force_terminal=True, width=columns, height=rows, color_system=None)
    with LiveView(console) as view:
        for text in news:
            view.news(3.0, text)
        view.show(snapshot)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("size", SIZES, ids=str)
@settings(max_examples=40)
@given(snapshot=SNAPSHOTS, news=st.lists(NAMES, max_size=6))
def test_every_scene_fits_on_every_terminal(snapshot: Snapshot, news: list[str], size: tuple[int, int]) -> None:
    columns, rows = size
    console = Console(file=io.StringIO(), force_terminal=True, width=columns, height=rows, color_system=None)
    lines = console.render_lines(Frame(snapshot, news), console.options)
    assert len(lines) < max(rows, 5), "the last line is the cursor's"
    assert {sum(segment.cell_length for segment in line) for line in lines} == {columns}
    assert drawn(snapshot, columns, rows, *news)
    assert plain_line(snapshot).splitlines() or not snapshot.stage


def test_a_version_comes_before_it_is_known_how_many_are_planned() -> None:
    frame = "\n".join(drawn(VERSION_WITHOUT_A_PLAN, 100, 30))
    assert "version 0" in frame
    assert "version 0 of" not in frame
    assert plain_line(VERSION_WITHOUT_A_PLAN) == "teacher · version 0"


def six_devices() -> Snapshot:
    """As the demo has them, with its longest titles and states."""
    rows = [
        DeviceRow(
            name=f"person-{number:02d}",
            title=profile.title,
            state="held" if profile.gate else "training",
            detail=" (not charging)" if profile.gate else "",
            base_version=120 + number,
            staleness_last=number,
            waiting=number,
            merged=100 + number,
            bytes_up=250_000,
            bytes_down=1_250_000,
        )
        for number, profile in enumerate(PROFILES, start=3)
    ]
    return Snapshot(
        stage="federation",
        seconds=61.0,
        version=128,
        versions_planned=150,
        values=[0.1, 0.5, 0.85, 0.889],
        evaluated_version=127,
        merged=500,
        staleness_mean=1.2,
        devices=rows,
        notes=["pooled data 90.5%", "one person alone 81.2% (mean of 6)"],
        page_url="http://127.0.0.1:8090/0123456789abcdefghijkl/",
    )


def test_versions_that_outboxes_still_make_are_beyond_the_plan() -> None:
    frame = "\n".join(drawn(replace(six_devices(), version=152), 100, 30))
    assert "version 152 (150 planned)" in frame


NEWS = [f"person-{number:02d} has lost its connection" for number in range(3, 8)]


def test_nothing_is_cut_on_a_terminal_of_100_columns() -> None:
    """Once "10 times slow…" was cut while the next column was half blank."""
    frame = "\n".join(drawn(six_devices(), 100, 30, *NEWS))
    assert "…" not in frame
    for profile in PROFILES:
        assert profile.title in frame
    for word in (
        "kB down",
        "1250",
        "88.9%",
        "pooled data 90.5%",
        "person-07 has lost its connection",
        "127.0.0.1:8090",
    ):
        assert word in frame


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 10)])
def test_a_small_terminal_shows_what_matters_most(columns: int, rows: int) -> None:
    frame = "\n".join(drawn(six_devices(), columns, rows, *NEWS))
    for word in ("federation", "version 128 of 150", "accuracy 88.9%", "person-03", "merged", "● training"):
        assert word in frame


@pytest.mark.parametrize("size", [(100, 30), (80, 24)])
@pytest.mark.parametrize(
    ("main", "values", "texts"),
    [
        (MAE, [0.9, 0.4, 0.2, 0.213], ("MAE 0.213 (lower is better; version 127)", "█▃▁▁")),
        (PERPLEXITY, [4e4, 2e3, 1_830.4], ("perplexity 1,830 (lower is better; version 127)", "█▁▁")),
        (MainMetric("r2", higher_is_better=True), [-0.5, 0.75], ("R2 0.750 on unseen persons (version 127)", "▁█")),
        (MainMetric("macro_f1", higher_is_better=True), [0.1, 0.75], ("macro F1 75.0% on unseen persons", "▁▇")),
    ],
)
def test_any_main_metric_is_shown(
    size: tuple[int, int], main: MainMetric, values: list[float], texts: tuple[str, str]
) -> None:
    frame = "\n".join(drawn(replace(six_devices(), main=main, values=values), *size, *NEWS))
    assert all(text in frame for text in texts)


def test_what_stays_is_how_it_ended() -> None:
    """Frames are drawn now and then; the last one always, and without an address where nothing is served any more."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30, color_system=None)
    with LiveView(console, clock=lambda: 0.0) as view:
        view.show(replace(six_devices(), stage="federation"))
        view.show(replace(six_devices(), stage="the end", page_url=""))
    assert isinstance(console.file, io.StringIO)
    last = console.file.getvalue().rpartition("asyncfedkd")[2]
    assert "the end" in last
    assert "127.0.0.1" not in last


def test_a_log_names_the_page_once() -> None:
    lines: list[str] = []
    with PlainView(lines.append) as view:
        for stage in ("federation", "outboxes drain"):
            view.show(replace(six_devices(), stage=stage))
    assert sum("http://127.0.0.1:8090/" in line for line in lines) == 1
