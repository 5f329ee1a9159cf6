"""Programs of the older wheel or of this repository, side by side, with the same libraries."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

Age = Literal["older", "newer"]
Program = subprocess.Popen[bytes]

REPOSITORY = Path(__file__).parents[2]
WHEEL = Path(__file__).with_name("asyncfedkd-0.1.0-py3-none-any.whl")


def unpacked(folder: Path) -> Path:
    """The packages of the wheel, in `folder`."""
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(folder)
    return folder


def environment(packages: Path) -> dict[str, str]:
    """In which Python finds our packages in `packages` first, and everything else where it always does."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FEDKD_")}
    return {**ours, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}


def start(packages: Path, arguments: Sequence[str], *, folder: Path, log: Path) -> Program:
    """`python -m …` out of `packages`; what it prints goes to `log`. `folder`, where it runs, holds none of ours."""
    with log.open("ab") as out:
        command = [sys.executable, "-m", *arguments]
        return subprocess.Popen(command, cwd=folder, env=environment(packages), stdout=out, stderr=out)


def answer(packages: Path, script: str, text: str, *, folder: Path) -> str:
    """What `script` prints, given `text` on its standard input."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=folder, env=environment(packages), input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
