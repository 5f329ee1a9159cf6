"""The step of a trial that compares the sides of the split: also data sets, which are only read here, and devices."""

from collections.abc import Mapping

import numpy as np

from device_client.data.leakage import Side, check_sides, side_of, tensors_of
from device_client.data.near_copies import CORRELATION_MIN, descriptors, near_copies
from device_client.task import Data, TaskError
from device_client.trial.trial import Trial

SECONDS_MAX = 20.0
"""Time for reading and hashing inputs. Chosen."""


def compare_sides(trial: Trial) -> str:
    """Looks for persons, sources and inputs that are on two sides, or on two devices."""
    ends = trial.monotonic() + SECONDS_MAX
    sides: dict[str, dict[str, Data]] = {
        "held-out": {"held-out": trial.held_out},
        "teacher": {} if trial.teacher_data is None else {"teacher": trial.teacher_data},
        "device": trial.data,
    }
    parts = {
        name: {part: side_of(data, stop=lambda: trial.monotonic() > ends) for part, data in members.items()}
        for name, members in sides.items()
        if members
    }
    whole = {name: _together(members) for name, members in reversed(parts.items())}
    try:
        check_sides(whole)
    except TaskError as error:
        raise TaskError(f"task {trial.task.name}: {error}") from None
    _note_equal_tensors(trial, sides, ends)
    _note_near_copies(trial, sides, ends)
    _note_two_devices(trial, parts["device"])
    rows, read = (sum(getattr(side, count) for side in whole.values()) for count in ("rows", "read"))
    if read < rows:
        trial.note(f"only {read:,} of {rows:,} rows were compared, within {SECONDS_MAX:g} s")
    persons, sources, images = (
        sum(len(getattr(side, what)) for side in whole.values()) for what in ("persons", "sources", "images")
    )
    compared = [
        f"{count:,} {what}" for count, what in ((persons, "persons"), (sources, "sources"), (images, "images")) if count
    ]
    return f"{', '.join(compared)}: none is on two sides" if compared else "nothing that could be on two sides is known"


def _together(parts: Mapping[str, Side]) -> Side:
    whole = Side()
    for part in parts.values():
        whole.add(part)
    return whole


def _note_equal_tensors(trial: Trial, sides: Mapping[str, Mapping[str, Data]], ends: float) -> None:
    """Inputs that are no images may be equal for good reasons, such as short rows of whole numbers."""
    held, *others = (
        [tensors_of(data, stop=lambda: trial.monotonic() > ends) for data in members.values()]
        for members in sides.values()
    )
    known = {key for members in others for part in members for key in part}
    equal = sum(count for part in held for key, count in part.items() if key in known)
    if equal:
        trial.note(
            f"{equal:,} held-out inputs equal one of a device or the teacher, number for number; if they are copies, "
            "split by person or recording"
        )


def _note_near_copies(trial: Trial, sides: Mapping[str, Mapping[str, Data]], ends: float) -> None:
    held, *others = (
        np.concatenate([descriptors(data, lambda: trial.monotonic() > ends) for data in members.values()])
        for members in sides.values()
        if members
    )
    near = near_copies(held, np.concatenate(others), lambda: trial.monotonic() > ends)
    if near:
        trial.note(
            f"{near:,} of {len(held):,} held-out images look almost like one of a device or the teacher (correlation "
            f"over {CORRELATION_MIN:g} at 16 x 16 pixels); are they copies that were compressed, shifted or brightened?"
        )


def _note_two_devices(trial: Trial, devices: Mapping[str, Side]) -> None:
    """Copies on two devices tell nothing about held-out data, but they weigh twice."""
    for what, name in (("persons", "persons"), ("sources", "sources"), ("images", "images")):
        seen: set[str | bytes] = set()
        twice: set[str | bytes] = set()
        for side in devices.values():
            keys = set(getattr(side, name))
            twice |= keys & seen
            seen |= keys
        if twice:
            trial.note(f"{len(twice):,} of {len(seen):,} {what} are on two devices or more, and so weigh more")
