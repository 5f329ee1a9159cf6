"""A host with several addresses, of which most are dead; and a name that nobody looks up."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from wire_contract.transport.dialing import ADDRESSES_MAX, CONNECT_SECONDS_MAX, Address, Dialer, interleave_families

LOOPBACK = "127.0.0.1"


def always() -> bool:
    return True


def at(listener: socket.socket) -> Address:
    return Address(socket.AF_INET, listener.getsockname())


@pytest.fixture
def alive() -> Iterator[socket.socket]:
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield listener


@pytest.fixture
def dead() -> Iterator[list[Address]]:
    """Addresses that never answer: listeners whose backlog is full, so that the system drops what comes."""
    with ExitStack() as stack:
        addresses = []
        for _ in range(12):
            listener = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=0))
            for _ in range(2):
                filling = stack.enter_context(socket.socket())
                filling.setblocking(False)
                filling.connect_ex(listener.getsockname())
            addresses.append(at(listener))
        yield addresses


def dialer(*addresses: Address, **more: Any) -> Dialer:
    return Dialer("host", 1883, resolve=lambda _, __: addresses, **more)


def test_the_one_that_lives_is_found_behind_many_dead_ones(dead: list[Address], alive: socket.socket) -> None:
    with dialer(*dead, at(alive)).dial(always) as connection:
        assert connection.getpeername() == alive.getsockname()


def test_it_asks_whether_to_go_on_while_all_are_dead(dead: list[Address]) -> None:
    """That is what tells a link's user that its thread lives, and what lets a program end."""
    asked = 0

    def five_times() -> bool:
        nonlocal asked
        asked += 1
        return asked <= 5

    with pytest.raises(OSError, match="stopped"):
        dialer(*dead).dial(five_times)


def test_each_address_has_its_time_and_no_more(dead: list[Address]) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5  # each look at the clock
        return now

    with pytest.raises(OSError, match="none of its 12 addresses answers: Connection timed out") as caught:
        dialer(*dead, clock=clock).dial(always)
    assert isinstance(caught.value, TimeoutError)
    assert now > CONNECT_SECONDS_MAX


def test_an_address_that_refuses_does_not_hold_up_the_next(alive: socket.socket) -> None:
    with socket.create_server((LOOPBACK, 0)) as gone:
        refusing = at(gone)
    with dialer(refusing, at(alive)).dial(always) as connection:
        assert connection.getpeername() == alive.getsockname()
    with pytest.raises(ConnectionRefusedError, match=r"\] Connection refused"):
        dialer(refusing).dial(always)


def test_an_address_that_was_no_broker_comes_last(alive: socket.socket) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        host = dialer(at(other), at(alive))
        for expected in (other, alive, other):
            with host.dial(always) as connection:
                assert connection.getpeername() == expected.getsockname()
            host.suspect_last() if expected is other else host.clear_suspects()


def test_a_look_up_that_does_not_end_is_given_up_and_not_begun_twice(alive: socket.socket) -> None:
    begun, answer = [], threading.Event()

    def resolve(host: str, port: int) -> list[Address]:
        begun.append((host, port))
        answer.wait(60)
        return [at(alive)]

    host = Dialer("host", 1883, resolve=resolve)
    for _ in range(2):
        with pytest.raises(TimeoutError, match="the name host could not be looked up"):
            host.dial(lambda: False)
    answer.set()
    host.dial(always).close()
    assert begun == [("host", 1883)]


def test_a_name_that_nobody_knows_is_told() -> None:
    def resolve(_: str, __: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(socket.gaierror, match="not known"):
        Dialer("host", 1883, resolve=resolve).dial(always)


def test_the_families_take_turns_and_none_is_tried_twice() -> None:
    six, four = [
        [Address(family, (f"{family}-{number}", 1)) for number in range(3)]
        for family in (socket.AF_INET6, socket.AF_INET)
    ]
    assert interleave_families([*six, *four, *six]) == [six[0], four[0], six[1], four[1], six[2], four[2]]
    assert interleave_families([]) == []
    assert ADDRESSES_MAX * 0.25 + CONNECT_SECONDS_MAX < 120
