"""Splits persons into devices, teacher and held-out data, the same way on every machine."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from device_client.data.faults import some
from device_client.task_checks import SplitError


@dataclass(frozen=True, kw_only=True)
class PersonSplit:
    """Each person is on one side."""

    devices: tuple[str, ...]
    """Their data trains the student, each on its own device."""
    teacher: tuple[str, ...]
    """Their data pre-trains the teacher."""
    held_out: tuple[str, ...]
    """Their data only measures."""


def side_of(person: str, *, teacher_share: float, held_out_share: float, salt: str = "") -> str:
    """The side of one person: "held_out", "teacher" or "devices".

    It depends on the person's name and the salt only, not on who else takes part: a device can tell it alone, and
    nobody changes sides when persons join. The shares are exact only for many persons.
    """
    digest = hashlib.sha256(f"{salt}/{person}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < held_out_share:
        return "held_out"
    return "teacher" if position < held_out_share + teacher_share else "devices"


def split_by_hash(
    persons: Iterable[str], *, teacher_share: float = 0.2, held_out_share: float = 0.2, salt: str = ""
) -> PersonSplit:
    """Splits persons by their names (`side_of`). Another salt gives another split.

    Raises:
        SplitError: a share is not between 0 and 1, or a side that should have somebody has nobody.
    """
    if min(teacher_share, held_out_share) < 0 or teacher_share + held_out_share >= 1:
        raise SplitError(
            f"teacher_share={teacher_share:g} and held_out_share={held_out_share:g} must be at least 0, and their sum "
            "below 1"
        )
    known = sorted({str(person) for person in persons})
    sides: dict[str, list[str]] = {"devices": [], "teacher": [], "held_out": []}
    for person in known:
        sides[side_of(person, teacher_share=teacher_share, held_out_share=held_out_share, salt=salt)].append(person)
    wanted = {"devices": 1.0, "teacher": teacher_share, "held_out": held_out_share}
    empty = [side for side, share in wanted.items() if share > 0 and not sides[side]]
    if empty:
        raise SplitError(
            f"none of the {len(known)} persons falls on the side {', '.join(empty)}; give another salt=, larger "
            "shares, or the persons by name (split_by_list)"
        )
    return PersonSplit(**{side: tuple(names) for side, names in sides.items()})


def split_by_list(persons: Iterable[str], *, teacher: Iterable[str] = (), held_out: Iterable[str]) -> PersonSplit:
    """Splits persons by name; who is not listed is a device.

    Raises:
        SplitError: a listed person does not exist or is listed on both sides, or no device is left.
    """
    known = sorted({str(person) for person in persons})
    teachers, held = tuple(dict.fromkeys(teacher)), tuple(dict.fromkeys(held_out))
    unknown = sorted({*teachers, *held} - set(known))
    if unknown:
        raise SplitError(f"there is no person {some(unknown)}; known: {some(known)}")
    both = sorted(set(teachers) & set(held))
    if both:
        raise SplitError(f"person {some(both)} is in both the teacher and the held-out list; choose one")
    devices = tuple(person for person in known if person not in {*teachers, *held})
    if not devices:
        raise SplitError("all persons are for the teacher or held out; leave some for the devices")
    return PersonSplit(devices=devices, teacher=teachers, held_out=held)
