"""What lets tests run beside each other on several workers of pytest-xdist."""

from pathlib import Path

import pytest

from tests.broker.mosquitto import PORTS, free_port, own_ports
from tests.scheduling import ALONE, TOGETHER, scope_of, turn_of

HOUSE = Path(__file__).parents[1]


@pytest.mark.parametrize("workers", [1, 2, 4, 7])
def test_no_port_belongs_to_two_workers(workers: int) -> None:
    shares = [own_ports(PORTS, f"gw{worker}", workers) for worker in range(workers)]
    assert sorted(port for share in shares for port in share) == list(PORTS)


def test_a_worker_gives_ports_of_its_own_share_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw2")
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    given = [free_port() for _ in range(50)]
    assert set(given) <= set(own_ports(PORTS, "gw2", 3))
    assert len(set(given)) == len(given)


@pytest.mark.parametrize("beginning", [*TOGETHER, *ALONE])
def test_what_is_scheduled_by_name_is_there(beginning: str) -> None:
    path, _, name = beginning.partition("::")
    assert (HOUSE / path).exists()
    assert f"def {name}" in (HOUSE / path).read_text() if name else True


def test_tests_of_a_file_stay_together_but_for_whole_programs() -> None:
    assert scope_of("tests/laws/test_codec_laws.py::test_one") == scope_of("tests/laws/test_codec_laws.py::test_two[x]")
    assert scope_of("tests/e2e/test_demo.py::test_no_broker") != scope_of("tests/e2e/test_demo.py::test_wrong_password")
    assert scope_of("tests/page/test_page.py::test_one") == scope_of("tests/page/test_looks.py::test_two")
    small, queries = "tests/e2e/test_demo.py::test_small_demo_ends", "tests/grafana/test_queries.py::test_a_panel[1]"
    assert scope_of(small) == scope_of(queries), "or the small demo would run twice"
    assert (
        turn_of(small)
        < turn_of("tests/e2e/test_readme.py::test_from_top_to_bottom")
        < turn_of("tests/test_house.py::t")
    )
