"""What stands on the broker beside what should, out of echoes, retained messages and strangers."""

from aggregator.publishing.retained_state import RetainedState, sha256


def standing(**topics: bytes) -> RetainedState:
    """All was published and heard."""
    upkeep = RetainedState()
    upkeep.begin_census()
    upkeep.end_census(hears=True)
    upkeep.want({topic: sha256(payload) for topic, payload in topics.items()})
    for topic, payload in topics.items():
        upkeep.published(topic, payload)
        assert not upkeep.heard(topic, payload)
    assert upkeep.missing() == []
    return upkeep


def test_what_was_published_is_taken_to_stand_until_something_else_is_heard() -> None:
    upkeep = RetainedState()
    upkeep.want({"a": sha256(b"1"), "b": sha256(b"2")})
    assert upkeep.missing() == ["a", "b"]
    upkeep.published("a", b"1")
    assert upkeep.missing() == ["b"]


def test_what_is_deleted_or_replaced_is_missing() -> None:
    upkeep = standing(a=b"1", b=b"2")
    assert upkeep.heard("a", b"")
    assert upkeep.heard("b", b"other")
    assert upkeep.missing() == ["a", "b"]


def test_an_echo_that_is_late_is_no_stranger() -> None:
    upkeep = standing(a=b"1")
    for payload in (b"2", b"3", b"4"):
        upkeep.want({"a": sha256(payload)})
        upkeep.published("a", payload)
    assert not upkeep.heard("a", b"2")
    assert not upkeep.heard("a", b"4"), "3 was lost: at QoS 0 an echo may be"
    assert upkeep.missing() == []


def test_a_stranger_before_our_own_message_is_over_and_after_it_is_not() -> None:
    upkeep = standing(a=b"1")
    upkeep.want({"a": sha256(b"2")})
    upkeep.published("a", b"2")
    assert upkeep.heard("a", b"stranger")
    assert upkeep.missing() == [], "ours is still to come"
    assert not upkeep.heard("a", b"2")
    assert upkeep.missing() == []
    assert upkeep.heard("a", b"stranger")
    assert upkeep.missing() == ["a"]


def test_a_census_forgets_what_is_not_heard_of() -> None:
    upkeep = standing(a=b"1", b=b"2", c=b"3")
    upkeep.begin_census()
    upkeep.heard("a", b"1")
    upkeep.published("c", b"3")
    upkeep.end_census(hears=True)
    assert upkeep.missing() == ["b"]


def test_who_hears_nothing_starts_again_from_nothing() -> None:
    upkeep = standing(a=b"1")
    upkeep.begin_census()
    upkeep.end_census(hears=False)
    assert upkeep.missing() == ["a"]
    upkeep.suspect(["old", "a"])
    assert upkeep.surplus(()) == ["old"]


def test_surplus_is_what_nobody_wants_or_keeps() -> None:
    upkeep = standing(a=b"1")
    assert not upkeep.heard("left", b"over"[:0])
    assert upkeep.heard("left", b"over")
    assert upkeep.heard("kept", b"before")
    assert upkeep.surplus({"kept"}) == ["left"]
    upkeep.published("left", b"")
    assert upkeep.surplus({"kept"}) == []


def test_what_the_broker_would_not_take_is_not_tried_again_before_the_next_census() -> None:
    upkeep = RetainedState()
    upkeep.want({"a": sha256(b"1")})
    upkeep.given_up("a")
    assert upkeep.missing() == []
    upkeep.begin_census()
    upkeep.end_census(hears=True)
    assert upkeep.missing() == ["a"]
