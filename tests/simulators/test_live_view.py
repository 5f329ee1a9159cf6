"""Every scene that can occur is drawn, on a terminal of any size."""

import io
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from simulators.live_view import DeviceRow, LiveView, Scene, plain_line
from simulators.story import State

COUNTS = st.one_of(st.integers(0, 300), st.integers(0, 2**63))
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
SCENES = st.builds(
    Scene,
    stage=NAMES,
    seconds=st.floats(0, 1e9),
    version=st.integers(-1, 300) | COUNTS,
    versions_planned=st.none() | COUNTS,
    accuracies=st.lists(st.floats(0, 1) | st.floats(), max_size=300),
    accuracy_version=st.none() | COUNTS,
    merged=COUNTS,
    duplicates=COUNTS,
    refused=COUNTS,
    staleness_mean=st.none() | st.floats(0, 1e9),
    devices=st.lists(ROWS, max_size=12),
    notes=st.lists(NAMES, max_size=3),
    page_url=st.sampled_from(["", "http://127.0.0.1:8090/"]) | NAMES,
)
NOTHING_YET = Scene(stage="data and broker", seconds=0.0, version=-1, versions_planned=None)
VERSION_WITHOUT_A_PLAN = Scene(stage="teacher", seconds=3.0, version=0, versions_planned=None)


def drawn(scene: Scene, columns: int, rows: int, *news: str) -> list[str]:
    """The lines of one frame."""
    console = Console(file=io.StringIO(), force_terminal=True, width=columns, height=rows, color_system=None)
    with LiveView(console) as view:
        for text in news:
            view.news(3.0, text)
        view.show(scene)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("size", SIZES, ids=str)
@given(scene=SCENES, news=st.lists(NAMES, max_size=6))
def test_every_scene_is_drawn_on_every_terminal(scene: Scene, news: list[str], size: tuple[int, int]) -> None:
    assert drawn(scene, *size, *news)
    assert plain_line(scene).splitlines()


def test_a_version_comes_before_it_is_known_how_many_are_planned() -> None:
    frame = "\n".join(drawn(VERSION_WITHOUT_A_PLAN, 100, 30))
    assert "version 0" in frame
    assert "version 0 of" not in frame
    assert plain_line(VERSION_WITHOUT_A_PLAN) == "teacher · version 0"
