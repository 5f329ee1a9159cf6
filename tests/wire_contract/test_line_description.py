"""What two programs must have in common, and how a difference is told."""

import numpy as np
import pytest

from wire_contract import codec
from wire_contract.limits import INLINE_BYTES_MAX, LINE_BUFFER_BYTES_MAX, LINE_LABEL_BYTES_MAX
from wire_contract.line_description import LineDescription, describe, labels_shown, other_buffer, other_labels
from wire_contract.messages import Manifest

WORDS = ("sit", "walk", "run", "lie")


def difference(own: LineDescription, line: LineDescription) -> str | None:
    return other_labels(own, line, mine="this device's", noun="classes")


def manifest(line: LineDescription | None) -> Manifest:
    return Manifest(
        task="t",
        version=1,
        parent=0,
        digest=bytes(32),
        layout_fingerprint=bytes(8),
        size_bytes=1,
        update_bytes_max=1,
        published_at=1.0,
        line=line,
    )


def test_the_same_labels_in_the_same_order_agree() -> None:
    assert difference(describe(WORDS, {}), describe(list(WORDS), {})) is None
    assert difference(describe((), {}), describe((), {})) is None


def test_another_order_is_told_as_such() -> None:
    assert difference(describe(sorted(WORDS), {}), describe(WORDS, {})) == (
        "this device's classes are (lie, run, sit, walk); the line's are (sit, walk, run, lie), "
        "the same names in another order"
    )


def test_more_fewer_and_no_labels_are_told() -> None:
    three, four = describe(WORDS[:3], {}), describe(WORDS, {})
    assert difference(three, four) == "this device's classes are (sit, walk, run); the line's are (sit, walk, run, lie)"
    assert difference(four, describe((), {})) == "this device's classes are (sit, walk, run, lie); the line's are none"


def test_of_many_labels_the_first_difference_is_told() -> None:
    many = [f"word {number}" for number in range(300)]
    changed = [*many[:117], "\x1b[31m", *many[118:]]
    told = difference(describe(many, {}), describe(changed, {}))
    assert told is not None
    assert told.endswith(r"the first difference is number 117: 'word 117' here, '\\x1b[31m' in the line")
    assert len(told) < 600


def test_too_many_names_travel_as_a_number_and_a_fingerprint() -> None:
    many = [f"word {number}" for number in range(5_000)]
    line = describe(many, {})
    assert (line.label_count, line.labels) == (5_000, ())
    assert difference(line, describe(many, {})) is None
    told = difference(line, describe(many[::-1], {}))
    assert told is not None
    assert told.endswith("their fingerprints differ")
    assert "5000 names" in str(difference(describe(WORDS, {}), line))


def test_integers_agree_exactly_and_a_buffer_is_named() -> None:
    own = describe(WORDS, {"chosen": np.arange(64), "mask": np.ones(3, dtype=bool)})
    assert other_buffer(own, own) is None
    swapped = np.arange(64)
    swapped[[0, 1]] = swapped[[1, 0]]
    assert other_buffer(own, describe(WORDS, {"chosen": swapped, "mask": np.ones(3, dtype=bool)})) == (
        "buffer chosen has other values here than in the line"
    )
    assert other_buffer(own, describe(WORDS, {"chosen": np.arange(64)})) == "buffer mask exists here only"
    assert other_buffer(describe(WORDS, {}), own) == "buffer chosen exists in the line only"
    reshaped = describe(WORDS, {"chosen": np.arange(64).reshape(8, 8), "mask": np.ones(3, dtype=bool)})
    assert "chosen" in str(other_buffer(own, reshaped))


@pytest.mark.parametrize("ulp", [np.float16, np.float32])
def test_the_last_bits_of_floating_point_numbers_may_differ(ulp: type) -> None:
    """A sine is not the same to the last bit on every processor."""
    angles = np.sin(np.arange(4_096) / 7.0).astype(ulp)
    nudged = np.nextafter(angles, ulp(2))
    assert (nudged != angles).all()
    assert other_buffer(describe((), {"angles": angles}), describe((), {"angles": nudged})) is None


@pytest.mark.parametrize("count", [1, 2, 64, 10_000])
def test_two_draws_of_a_random_buffer_differ(count: int) -> None:
    """As long as one of them is, in a thousand pairs."""
    random = np.random.default_rng(1)
    first = describe((), {"projection": random.normal(size=count)})
    passed = sum(
        other_buffer(first, describe((), {"projection": random.normal(size=count)})) is None for _ in range(200)
    )
    assert passed == 0


def test_masks_of_infinities_are_compared_by_their_places() -> None:
    mask = np.triu(np.full((5, 5), -np.inf), 1)
    own = describe((), {"mask": mask})
    assert other_buffer(own, describe((), {"mask": mask.copy()})) is None
    for other in (mask.T, np.where(np.isinf(mask), np.inf, 0.0), np.where(np.isinf(mask), np.nan, 0.0)):
        assert other_buffer(own, describe((), {"mask": other})) is not None
    lowest = np.triu(np.full((5, 5), np.finfo(np.float32).min), 1)
    assert other_buffer(describe((), {"m": lowest}), describe((), {"m": lowest.copy()})) is None


def test_buffers_beyond_the_limit_are_compared_together() -> None:
    def many(changed: int | None) -> LineDescription:
        random = np.random.default_rng(0)
        made = {f"layer.{number:03d}.mask": random.normal(size=8) for number in range(200)}
        if changed is not None:
            made[f"layer.{changed:03d}.mask"] += 1.0
        return describe((), {**made, "positions": np.arange(9)})

    own = many(None)
    assert 10 < len(own.buffers) < 20
    assert other_buffer(own, many(None)) is None
    assert other_buffer(own, many(3)) == "buffer layer.003.mask has other values here than in the line"
    told = other_buffer(own, many(150))
    assert told == f"the buffers after {max(own.buffers)} have other values here than in the line"


def test_a_manifest_without_a_description_has_the_bytes_of_before() -> None:
    assert b"ln" not in codec.pack(manifest(None))
    assert codec.decode(codec.encode(manifest(None)), Manifest).line is None


def test_the_largest_description_leaves_a_manifest_its_room() -> None:
    labels = [f"{number:03x}" for number in range(LINE_LABEL_BYTES_MAX // 4 - 1)]
    line = describe(labels, {f"a.{number}": np.random.default_rng(0).normal(size=9) for number in range(500)})
    assert len(line.labels) == len(labels)
    larger = len(codec.pack(manifest(line))) - len(codec.pack(manifest(None)))
    assert larger < LINE_LABEL_BYTES_MAX + LINE_BUFFER_BYTES_MAX + 100
    assert INLINE_BYTES_MAX + larger < 30 * 1024, "under the 32 KiB of cloud brokers, with the other fields"
    assert codec.decode(codec.encode(manifest(line)), Manifest).line == line


def test_labels_are_shown_on_one_line() -> None:
    assert labels_shown(WORDS, count=4) == "sit, walk, run, lie"
    assert labels_shown((), count=0) == "none"
    assert labels_shown((), count=9_000) == "9000 names, too long to be listed"
    assert labels_shown((), count=None) == "not known: the line began with an older version"
    assert labels_shown(["a\nb"], count=1) == r"a\nb"
