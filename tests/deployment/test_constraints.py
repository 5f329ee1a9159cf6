"""`make` installs the versions in constraints.txt: all of them are exact, and none is missing."""

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.broker.mosquitto import program
from tests.deployment.compose_file import REPOSITORY

LINES = (REPOSITORY / "constraints.txt").read_text().splitlines()
CONSTRAINTS = [Requirement(line) for line in LINES if not line.startswith("#")]
PINNED = {canonicalize_name(one.name): Version(next(iter(one.specifier)).version) for one in CONSTRAINTS}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
DECLARED = [
    Requirement(text)
    for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in texts
]
RENEW = "run `make constraints`, then the tests"
OWN = "asyncfedkd"


def test_each_line_is_one_exact_version_that_any_index_may_have() -> None:
    for line in LINES[1:]:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), line  # no address, no path, no local label
    assert len(PINNED) == len(CONSTRAINTS)


def test_the_versions_are_within_the_ranges_of_pyproject() -> None:
    for one in DECLARED:
        if one.name != OWN:
            assert one.specifier.contains(PINNED[canonicalize_name(one.name)]), f"{one}: {RENEW}"


def test_no_package_that_is_installed_for_another_one_is_missing() -> None:
    missing, to_see, seen = set[str](), [one for one in DECLARED if one.name != OWN], set[str]()
    while to_see:
        one = to_see.pop()
        if str(one) in seen or not _applies(one):
            continue
        seen.add(str(one))
        try:
            further = requires(one.name) or []
        except PackageNotFoundError:  # an extra that this environment lacks; its own name is looked up above
            continue
        if canonicalize_name(one.name) not in PINNED and not one.name.startswith(("nvidia-", "cuda-", "triton")):
            missing.add(one.name)
        asked = [Requirement(text) for text in further]
        to_see += [other for other in asked if _applies(other, one.extras)]
    assert not missing, f"{sorted(missing)}: {RENEW}"


def _applies(requirement: Requirement, extras: set[str] | frozenset[str] = frozenset()) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in (*extras, ""))


@pytest.mark.parametrize("target", ["demo", "test", "check"])
def test_make_installs_by_them(target: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    done = subprocess.run(
        [program("make"), "--dry-run", target], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    installs = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)
