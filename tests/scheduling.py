"""Which tests share a worker of pytest-xdist, and which go first.

Tests of one file share a worker, so that what a file makes once is made once. Exceptions are in the tables. Nothing
here changes what a test does: `make test WORKERS=0` runs all of them one after another in one process.
"""

from collections.abc import Mapping, Sequence
from typing import Any

TOGETHER: Mapping[str, str] = {
    "tests/e2e/test_terminals.py::test_a_demo": "demos",
    "tests/e2e/test_terminals.py::test_the_last_screen": "demos",
    "tests/e2e/test_demo.py::test_small_demo": "demos",
    "tests/grafana/test_queries.py": "demos",
    "tests/page/": "browser",
}
"""By the beginning of a test's id: tests that have a fixture of the session in common, or that would keep all cores
busy if they ran beside each other.
"""
ALONE: Sequence[str] = (
    "tests/deployment/test_compose_run.py",
    "tests/e2e/",
    "tests/older/test_older_programs.py",
    "tests/operations/doctor/",
    "tests/zoo/test_small_tasks.py::test_a_small_task_learns",
)
"""Each test starts programs of its own, and waits for them: it may go to any worker."""


def scope_of(test: str) -> str:
    """Tests of one scope run on one worker, one after another."""
    for beginning, group in TOGETHER.items():
        if test.startswith(beginning):
            return group
    return test if test.startswith(tuple(ALONE)) else test.partition("::")[0]


def turn_of(test: str) -> int:
    """Long ones first, so that short ones fill what is left at the end."""
    return 0 if test.startswith(tuple(TOGETHER)) else 1 if test.startswith((*ALONE, "tests/zoo/")) else 2


def scheduler(config: Any, log: Any) -> object:
    """For pytest-xdist: hands out the scopes in the order of the collection.

    Its own groups (`--dist loadgroup`, version 3.8) have no effect with pytest 9.2, in which a test keeps its id.
    """
    from xdist.scheduler.loadscope import LoadScopeScheduling  # noqa: PLC0415 - only a run with workers needs it

    class ByScope(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    config.option.loadscopereorder = False
    return ByScope(config, log)
