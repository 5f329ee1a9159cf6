"""Programs that people look at, as they look at them: in a real terminal, whose last screen tells the result."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.e2e.small_demo import DEMO_SECONDS_MAX, data_wheel
from tests.terminal import Terminal

pytestmark = pytest.mark.e2e

QUICK = ("--devices", "2", "--versions", "5")
ONE_CORE = frozenset({min(os.sched_getaffinity(0))})


@pytest.mark.timeout(DEMO_SECONDS_MAX + 60)
@pytest.mark.parametrize(
    ("columns", "rows", "cores"), [(100, 30, None), (80, 24, ONE_CORE)], ids=["100x30", "80x24, one core"]
)
def test_the_last_screen_of_a_demo_shows_the_result(
    tmp_path: Path, columns: int, rows: int, cores: frozenset[int] | None
) -> None:
    data_wheel()
    out = tmp_path / "demo"
    arguments = ["-m", "simulators", "demo", "--out", str(out), *QUICK]
    with Terminal(arguments, columns=columns, rows=rows, cores=cores) as terminal:
        ended = terminal.ended(seconds_max=DEMO_SECONDS_MAX)
    assert ended.code == 0, ended.output
    assert "Traceback" not in ended.output
    facts = json.loads((out / "summary.json").read_text())
    for figure in (facts["accuracy"], facts["accuracy_centralised"], facts["accuracy_local_mean"]):
        assert f"{figure:.1%}" in ended.text, ended.text
    said = "".join(ended.screen)  # a long path goes on in the next line
    assert re.sub(r"\s", "", f"report: {out / 'report.html'}") in re.sub(r"\s", "", said), ended.text
