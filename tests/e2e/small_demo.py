"""One small demo for all tests that look at what it leaves behind: it takes a minute or two."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

HOUSE = Path(__file__).parents[2]
SMALL = ("--devices", "3", "--seconds", "15", "--plain")
DEMO_SECONDS_MAX = 200.0
"""Far more than it takes, for a machine that does other things as well."""


class SmallDemo(NamedTuple):
    """How it ended."""

    out: Path
    code: int
    said: str
    error: str


def data_wheel() -> Path:
    """The data. Where it cannot be had: a failure in CI, elsewhere a skip that says why."""
    # Here and not above: all tests import this module, and few need torch.
    from device_client.task import TaskError  # noqa: PLC0415
    from device_client.tasks.physiotherapy import wheel_path  # noqa: PLC0415

    try:
        return wheel_path()
    except TaskError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "simulators", "demo", *arguments],
        cwd=HOUSE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(demo: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    try:
        out, error = demo.communicate(timeout=DEMO_SECONDS_MAX)
    except BaseException:
        demo.terminate()
        demo.communicate(timeout=30)
        raise
    return demo.returncode, out, error


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> SmallDemo:
    """Run once a session."""
    data_wheel()
    out = tmp_path_factory.mktemp("small-demo") / "demo"
    return SmallDemo(out, *ended(start("--out", str(out), *SMALL)))
