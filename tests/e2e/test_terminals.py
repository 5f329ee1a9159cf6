"""Programs that people look at, as they look at them: in a real terminal, whose last screen tells the result."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.e2e.small_demo import DEMO_SECONDS_MAX, data_wheel
from tests.terminal import Terminal

pytestmark = pytest.mark.e2e

QUICK = ("--quick", "--devices", "2", "--versions", "5", "--baselines-seconds", str(DEMO_SECONDS_MAX))
ONE_CORE = frozenset({min(os.sched_getaffinity(0))})


@pytest.mark.timeout(DEMO_SECONDS_MAX + 60)
def test_a_demo_whose_baselines_are_late_ends_with_a_report_that_says_so(tmp_path: Path) -> None:
    """As on a slow machine, where they once took the report with them."""
    data_wheel()
    out = tmp_path / "demo"
    late = (*QUICK, "--baselines-seconds", "0")
    with Terminal(["-m", "simulators", "demo", "--out", str(out), *late], columns=80, rows=24) as terminal:
        ended = terminal.ended(seconds_max=DEMO_SECONDS_MAX)
    assert ended.code == 0, ended.output
    facts = json.loads((out / "summary.json").read_text())
    assert "pooled data" in facts["missing"], "pooled training is the longest part: it was never done by then"
    assert f"accuracy {facts['accuracy']:.1%} on persons never seen (pooled data missing" in ended.text
    assert "missing: pooled data" in ended.text
    assert "Missing here: pooled data" in (out / "report.html").read_text()


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
    assert not facts["missing"]
    said = "".join(ended.screen)  # a long path goes on in the next line
    assert re.sub(r"\s", "", f"report: {out / 'report.html'}") in re.sub(r"\s", "", said), ended.text
