"""Persons are split the same way everywhere, and nobody is on two sides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.data.persons import side_of, split_by_hash, split_by_list
from device_client.task_checks import SplitError

PERSONS = [f"person-{number}" for number in range(200)]


def test_the_split_is_by_name_and_fixed() -> None:
    split = split_by_hash(PERSONS, teacher_share=0.1, held_out_share=0.3)
    assert sorted([*split.devices, *split.teacher, *split.held_out]) == sorted(PERSONS)
    assert split == split_by_hash(reversed([*PERSONS, *PERSONS]), teacher_share=0.1, held_out_share=0.3)
    assert (len(split.held_out), len(split.teacher)) == (64, 25), "as on any other machine"
    other = split_by_hash(PERSONS, teacher_share=0.1, held_out_share=0.3, salt="again")
    assert other.held_out != split.held_out


@given(persons=st.sets(st.text(min_size=1, max_size=8), max_size=30))
def test_nobody_changes_sides_when_others_join(persons: set[str]) -> None:
    joined = split_by_hash([*PERSONS, *persons])
    for person in persons:
        side = side_of(person, teacher_share=0.2, held_out_share=0.2)
        assert person in getattr(joined, side)


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(SplitError, match=r"none of the 1 persons falls on the side .*; give another salt"):
        split_by_hash(["anna"])
    with pytest.raises(SplitError, match="must be at least 0, and their sum below 1"):
        split_by_hash(PERSONS, teacher_share=0.6, held_out_share=0.4)


def test_a_split_by_list() -> None:
    split = split_by_list(["c", "a", "b", "a"], held_out=["b"])
    assert (split.devices, split.teacher, split.held_out) == (("a", "c"), (), ("b",))
    with pytest.raises(SplitError, match="there is no person 'd'; known: 'a', 'b'"):
        split_by_list(["a", "b"], held_out=["d"])
    with pytest.raises(SplitError, match="person 'a' is in both the teacher and the held-out list"):
        split_by_list(["a", "b"], teacher=["a"], held_out=["a"])
    with pytest.raises(SplitError, match="leave some for the devices"):
        split_by_list(["a", "b"], teacher=["a"], held_out=["b"])


def test_persons_of_an_array_become_plain_names() -> None:
    persons = np.array(["c", "a", "b"])
    by_hash = split_by_hash(np.array(PERSONS), teacher_share=0.1, held_out_share=0.3)
    for split in (split_by_list(persons, held_out=["b"]), by_hash):
        assert {type(person) for person in (*split.devices, *split.held_out)} == {str}
