"""An id tells root, task and name apart, and with the default root it stays what it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire_contract.client_ids import client_id_below
from wire_contract.program.command_settings import read_settings
from wire_contract.settings import ConnectionSettings
from wire_contract.topics import DEFAULT_ROOT

NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,9}\Z")
ROOTS = st.sampled_from([DEFAULT_ROOT, "fedkd/v2", "other", "a/b"])


def client_id(*, root: str) -> str:
    flags = ("--task", "har", "--broker", "mqtt://localhost", "--root", root)
    settings = read_settings(ConnectionSettings, flags, program="p")
    return settings.mqtt_settings(client_id="fedkd:har:watch-1").client_id


def test_an_upgraded_program_finds_its_session() -> None:
    assert client_id(root=DEFAULT_ROOT) == "fedkd:har:watch-1"


def test_two_roots_on_one_broker_are_two_clients() -> None:
    assert client_id(root="fedkd/trial") == "fedkd:har:watch-1:9bc4c9da"
    assert len({client_id(root=root) for root in (DEFAULT_ROOT, "fedkd/trial", "fedkd/trial2")}) == 3


def test_a_client_id_that_was_given_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_CLIENT_ID", "own")
    assert client_id(root="fedkd/trial") == "own"


@given(st.tuples(ROOTS, NAMES, NAMES), st.tuples(ROOTS, NAMES, NAMES))
def test_no_two_programs_share_an_id(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    def named(root: str, task: str, device: str) -> str:
        return client_id_below(f"fedkd:{task}:{device}", root)

    assert (named(*one) == named(*other)) == (one == other)
    assert len(named(*one)) <= 144
