"""No person, source film or image stands on two sides of a split, whatever was done to the rows."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from device_client.data.leakage import (
    check_examples,
    copies,
    is_image,
    overlap,
    pixel_hash,
    row_hash,
    side_of,
    tensors_of,
)
from device_client.task import Examples, SplitError, TaskError, pooled
from device_client.tasks.checking import checked
from tests.device_client.test_task_faults import task

MIAS48 = Path(__file__).parents[4] / "shared" / "data" / "mias48" / "mias48.npz"
needs_mias48 = pytest.mark.skipif(not MIAS48.is_file(), reason=f"needs {MIAS48}")
Images = npt.NDArray[Any]


def drawn(count: int, *, seed: int = 0, shape: tuple[int, ...] = (1, 12, 12)) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def of(images: Images, persons: Any = None, **rows: Any) -> Examples:
    return Examples.of(images / np.float32(255), [0] * len(images), persons, **rows)


def symmetries(image: Images) -> list[Images]:
    turned = [np.rot90(image, quarter, axes=(-2, -1)) for quarter in range(4)]
    return turned + [one[..., ::-1] for one in turned]


def complaint(sides: dict[str, Examples]) -> str:
    with pytest.raises(SplitError) as refusal:
        check_examples(sides)
    return str(refusal.value)


# The hash


@settings(max_examples=50)
@given(
    seed=st.integers(0, 999),
    kind=st.sampled_from(["u1", "i1", "<u2", ">i2", "<i4"]),
    shape=st.sampled_from([(1, 3, 3), (3, 2, 13), (10, 17), (2, 8, 8)]),
)
def test_whole_numbers_have_the_hash_of_floats(seed: int, kind: str, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(seed).integers(0, 5, shape).astype(kind) - np.array(2, dtype=kind)
    assert pixel_hash(image) == pixel_hash(image.astype(np.float64))
    assert len({pixel_hash(one) for one in symmetries(image)}) == 1


@settings(max_examples=50)
@given(seed=st.integers(0, 999), shape=st.sampled_from([(1, 9, 9), (3, 8, 13), (10, 17), (2, 8, 8)]))
def test_all_symmetries_have_one_hash_and_other_images_another(seed: int, shape: tuple[int, ...]) -> None:
    image, other = drawn(2, seed=seed, shape=shape)
    assert len({pixel_hash(one) for one in symmetries(image)}) == 1
    changed = image.copy()
    pixel = seed % image.size
    changed.flat[pixel] = image.max() if image.flat[pixel] != image.max() else image.min()
    assert len({pixel_hash(image), pixel_hash(other), pixel_hash(changed)}) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.astype(np.float32) / np.float32(255),
        lambda image: image.astype(np.float64) / 255,
        lambda image: (image.astype(np.float32) - np.float32(117.3)) / np.float32(41.7),
        lambda image: image.astype(np.uint16) * 257,
        lambda image: (image / np.float32(255)) ** np.float32(0.7),
        lambda image: np.repeat(image, 3, axis=0),
        lambda image: np.moveaxis(np.repeat(image, 3, axis=0), 0, -1),
        lambda image: image[0],
        np.asfortranarray,
    ],
)
def test_neither_dtype_scale_gamma_nor_equal_channels_change_it(change: Callable[[Images], Images]) -> None:
    image = drawn(1, seed=4)[0]
    assert pixel_hash(change(image)) == pixel_hash(image)


def test_a_symmetry_moves_all_channels_alike_and_shape_and_order_of_values_count() -> None:
    colour = drawn(1, shape=(3, 8, 8))[0]
    assert pixel_hash(np.stack([colour[0], colour[1], np.rot90(colour[2])])) != pixel_hash(colour)
    assert pixel_hash(colour[::-1]) != pixel_hash(colour), "channels change places"
    assert pixel_hash(255 - colour) != pixel_hash(colour), "negative"
    assert pixel_hash(colour[0].reshape(4, 16)) != pixel_hash(colour[0])


def test_plain_images_and_rows_have_none() -> None:
    assert pixel_hash(np.full((8, 8), 3.5)) is None
    assert row_hash([np.zeros((6, 50)), np.ones(2)]) is None
    assert row_hash([np.zeros(4), np.arange(2)]) is not None


def test_images_are_told_from_time_series_and_tokens() -> None:
    assert is_image(np.zeros((1, 8, 8), np.float32))
    assert is_image(np.zeros((3, 224, 128), np.float32))
    assert not is_image(np.zeros((6, 50), np.float32))
    assert not is_image(np.zeros((12, 100, 100), np.float32)), "twelve channels"
    assert not is_image(np.zeros((1, 6, 50), np.float32)), "six rows"
    assert not is_image(np.zeros((1, 8, 8), np.int64)), "tokens"


# The guard


def test_an_error_counts_persons_sources_and_images() -> None:
    images = drawn(8)
    train = of(images[:6], list("aabbcc"), sources=["f1", "f2", "f3", "f4", "f5", "f6"])
    held = of(np.concatenate([images[4:6], images[6:8]]), list("cdde"), sources=["f5", "f9", "f9", "f8"])
    said = complaint({"training": train, "held-out": held})
    assert "person c is in both the training and the held-out data (1 of its 3 persons, with 1 of the 4 rows" in said
    assert "(1 of its 3 sources, with 1 of the 4 rows of the held-out data)" in said
    assert "2 images among the 4 rows of the held-out data are also in the training data" in said
    assert said.endswith("split by person")
    assert "f5" not in said, "a film's name may be an identifier"


def test_rows_split_by_image_but_not_by_patient() -> None:
    images = drawn(6)
    train, held = of(images[:4], list("aabb")), of(images[4:], list("bc"))
    assert "1 of its 2 persons, with 1 of the 2 rows" in complaint({"training": train, "held-out": held})
    check_examples({"training": train.where(np.array([True, True, False, False])), "held-out": held})


def test_augmented_rows_without_persons_are_found_and_can_be_left_out() -> None:
    images = drawn(5)
    augmented = np.stack([np.rot90(image, 3, axes=(1, 2))[..., ::-1] for image in images[:2]])
    train, held = of(images[:3]), of(np.concatenate([augmented, images[3:]]))
    said = complaint({"training": train, "held-out": held})
    assert "2 images among the 4 rows of the held-out data are also in the training data" in said
    assert "augment after the split" in said
    mask = copies(held, train)
    assert mask.tolist() == [True, True, False, False]
    check_examples({"training": train, "held-out": held.where(~mask)})


def test_plain_images_and_windows_may_be_equal_on_two_sides() -> None:
    dark = np.zeros((3, 1, 8, 8), np.uint8)
    check_examples({"training": of(dark), "held-out": of(dark)})
    windows = of(drawn(3, shape=(6, 20)))
    check_examples({"training": windows, "held-out": windows})
    assert sum((tensors_of(windows) & tensors_of(windows)).values()) == 3, "counted apart: check-task notes them"
    assert tensors_of(of(np.zeros((2, 6, 20)))) == Counter()


def test_several_inputs_are_compared_each_and_others_are_passed_over() -> None:
    images, ages = torch.rand(4, 1, 9, 9), torch.rand(4, 1)
    train = Examples.of((images[:2], ages[:2]), [0, 0])
    held = Examples.of({"film": images[1:].flip(-1), "age": ages[1:]}, [0, 0, 0])
    assert "1 images among the 3 rows" in overlap("training", side_of(train), "held-out", side_of(held))


@pytest.mark.parametrize("first", ["device", "teacher", "held-out"])
def test_a_loaded_task_is_checked_whatever_is_loaded_first(first: str) -> None:
    """Across devices: none of them has all rows that are also held out."""
    images = drawn(9)
    own = checked(
        task(
            device_data=lambda name: of(images[{"d1": slice(0, 3), "d2": slice(3, 5)}[name]]),
            held_out=lambda: of(np.stack([images[4][:, ::-1], images[8]])),
            teacher_data=lambda: of(images[5:8]),
        )
    )
    assert own.teacher_data is not None
    teacher_data = own.teacher_data
    order: list[tuple[str, Callable[[], Any]]] = [
        ("device", lambda: [own.examples_of("d1"), own.examples_of("d2")]),
        ("teacher", teacher_data),
        ("held-out", own.held_out),
    ]
    order.sort(key=lambda step: step[0] != first)
    with pytest.raises(SplitError, match=r"1 images among the \d rows of the held-out data are also in the device"):
        _ = [load() for _name, load in order]


def test_data_that_is_loaded_again_is_compared_again() -> None:
    images, given = drawn(6), [0]
    own = checked(task(device_data=lambda _: of(images[: 2 + given[0]]), held_out=lambda: of(images[3:])))
    own.examples_of("d1")
    own.held_out()
    own.examples_of("d1")
    given[0] = 2
    with pytest.raises(SplitError, match="1 images among the 3 rows of the held-out data"):
        own.examples_of("d1")


# Rows stay in line


def test_persons_sources_and_attributes_follow_their_rows() -> None:
    images = drawn(4)
    whole = of(images, list("aabb"), sources=list("wxyz"), attributes={"bytes": [1, 2, 3, 4], "scanner": list("pqpq")})
    part = whole.where(np.array([False, True, False, True]))
    both = pooled([part, whole])
    assert both.sources.tolist() == list("xzwxyz")
    assert both.attributes["bytes"].tolist() == [2, 4, 1, 2, 3, 4]
    assert both.attributes["scanner"].tolist() == list("qqpqpq")
    assert pooled([of(images), whole]).sources is None
    assert pooled([of(images), whole]).attributes == {}
    for wrong in ({"sources": ["a"]}, {"attributes": {"bytes": [1]}}, {"attributes": {"bytes": 1}}):
        with pytest.raises(TaskError, match="examples: 4 inputs for"):
            of(images, **wrong)


# Real films


def rows_of(stored: Any, name: str) -> tuple[Images, Images]:
    """The augmented rows as images (row, height, width), and the patient of each."""
    rows = stored[name]
    images = []
    for image, variant in rows:
        pixels = stored["images"][image]
        pixels = pixels[:, ::-1] if stored["variant_mirrored"][variant] else pixels
        images.append(np.rot90(pixels, stored["variant_quarter_turns"][variant]))
    return np.stack(images), stored["patient"][rows[:, 0]]


@needs_mias48
def test_rows_of_mias_split_by_row_overlap_and_by_patient_do_not() -> None:
    images, patients = rows_of(dict(np.load(MIAS48)), "rows_all")
    held = np.zeros(len(images), dtype=np.bool_)
    held[np.random.default_rng(0).permutation(len(images))[: len(images) // 5]] = True
    train, validation = (of(images[side][:, None], sources=patients[side]) for side in (~held, held))
    found, other = side_of(validation), side_of(train)
    assert all(one in other.images for one in found.images), "all of 765 rows over the 8 symmetries"
    known = {row_hash([image]) for image in images[~held]}
    share = np.mean([row_hash([image]) in known for image in images[held]])
    assert 0.5 < share < 0.56, "half are byte-identical to a training row"
    assert "765 images among the 765 rows" in overlap("training", other, "held-out", found)
    by_patient = np.isin(patients, np.unique(patients)[::5])
    check_examples(
        {name: of(images[side][:, None], patients[side]) for name, side in (("a", ~by_patient), ("b", by_patient))}
    )
