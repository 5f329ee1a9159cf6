"""Folders of images: classes, persons, sizes, depths, and images that cannot be decoded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from device_client.data.faults import DataError
from device_client.data.images import ImageFolder, Images, read_images
from tests.device_client.data.extras import extra

image_module = extra("PIL.Image")
CLASSES = ("cat", "dog")


def form(**changes: Any) -> ImageFolder:
    return ImageFolder(**({"classes": CLASSES, "size": (4, 6)} | changes))


def save(path: Path, pixels: Any, **named: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image_module.fromarray(np.asarray(pixels)).save(path, **named)
    return path


def gray(value: int, shape: tuple[int, ...] = (4, 6), dtype: Any = np.uint8) -> Any:
    return np.full(shape, value, dtype=dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "pets" / "dog" / "p2_a.png", gray(255))
    save(tmp_path / "pets" / "cat" / "p1_a.png", gray(0))
    save(tmp_path / "pets" / "cat" / "deeper" / "p2_b.PNG", gray(51))
    (tmp_path / "pets" / "cat" / "Thumbs.db").write_bytes(b"no image")
    return tmp_path / "pets"


def test_the_class_is_the_folder_and_the_person_is_in_the_name(folder: Path) -> None:
    images = read_images(folder, form(person_pattern=r"p(\d)_"))
    examples = images.examples()
    assert tuple(examples.inputs.shape) == (3, 1, 4, 6)
    assert examples.labels.tolist() == [0, 0, 1]
    assert images.persons is not None
    assert images.persons.tolist() == ["2", "1", "2"]
    assert [round(float(image.mean()), 3) for image in examples.inputs] == [0.2, 0.0, 1.0]
    assert len(images.of("2")) == 2
    attributes = images.of("1").examples().attributes
    assert (attributes["height"].tolist(), attributes["format"].tolist()) == ([4], [".png"])
    assert attributes["file_bytes"].tolist() == [(folder / "cat" / "p1_a.png").stat().st_size]
    assert images.summary == "3 images, 2 persons"
    inputs, label = images[2]
    assert torch.equal(inputs, examples.inputs[2])
    assert int(label) == 1


def test_persons_stand_in_a_csv_file(folder: Path) -> None:
    table = folder.parent / "persons.csv"
    table.write_text("file,person,age\np1_a.png,anna,3\ncat/deeper/p2_b.PNG,bert,4\np2_a.png,bert,4\n")
    images = read_images(folder, form(person_csv=table))
    assert images.persons is not None
    assert images.persons.tolist() == ["bert", "anna", "bert"]
    table.write_text("file,person\np1_a.png,anna\n")
    with pytest.raises(DataError, match=r"persons.csv has no row for the file 'cat/deeper/p2_b.PNG'"):
        read_images(folder, form(person_csv=table))
    table.write_text("file,person\np1_a.png,anna\np1_a.png,bert\n")
    with pytest.raises(DataError, match=r"persons.csv, row 3: each file needs one person"):
        read_images(folder, form(person_csv=table))
    table.write_text("name,person\n")
    with pytest.raises(DataError, match="needs the columns file and person; it has 'name', 'person'"):
        read_images(folder, form(person_csv=table))


@pytest.mark.parametrize(
    ("fit", "expected"),
    [("crop", [[1.0] * 4] * 4), ("pad", [[0.0] * 4, [1.0] * 4, [1.0] * 4, [0.0] * 4]), ("stretch", [[1.0] * 4] * 4)],
)
def test_a_wide_image_is_cropped_padded_or_stretched(tmp_path: Path, fit: str, expected: list[list[float]]) -> None:
    save(tmp_path / "cat" / "a.png", gray(255, (8, 16)))
    assert read_images(tmp_path, form(size=(4, 4), fit=fit)).examples().inputs[0, 0].tolist() == expected


def test_sixteen_bits_are_kept_and_colours_have_three_channels(tmp_path: Path) -> None:
    save(tmp_path / "deep" / "cat" / "a.png", gray(13_107, dtype=np.uint16))
    assert float(read_images(tmp_path / "deep", form()).examples().inputs[0, 0, 0, 0]) == pytest.approx(0.2)
    colours = gray(0, (4, 6, 3))
    colours[:, :, 1] = 255
    save(tmp_path / "rgb" / "cat" / "a.png", colours)
    inputs = read_images(tmp_path / "rgb", form(colour="rgb")).examples().inputs
    assert inputs[0, :, 0, 0].tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(DataError, match="16 bit images are read with colour='gray' only"):
        read_images(tmp_path / "deep", form(colour="rgb"))


def test_a_photograph_is_turned_as_its_camera_was(tmp_path: Path) -> None:
    pixels = gray(0, (4, 6))
    pixels[0] = 255
    exif = image_module.Exif()
    exif[0x0112] = 3  # the camera was upside down
    save(tmp_path / "cat" / "a.png", pixels, exif=exif)
    assert read_images(tmp_path, form()).examples().inputs[0, 0, :, 0].tolist() == [0.0, 0.0, 0.0, 1.0]


def damaged(folder: Path) -> Path:
    path = folder / "cat" / "p1_a.png"
    path.write_bytes(path.read_bytes()[:40])
    return path


def test_an_image_that_cannot_be_decoded_is_named(folder: Path) -> None:
    path = damaged(folder)
    with pytest.raises(
        DataError, match=r"cannot be decoded: .*; repair or delete it, or set skip_unreadable=True"
    ) as e:
        read_images(folder, form())
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)
    images = read_images(folder, form(skip_unreadable=True))
    assert images.summary == f"2 images, persons not known; left out: 1 that cannot be decoded, the first is {path}"


def test_an_image_of_absurd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "cat" / "a.png", gray(0, (20, 20)))
    monkeypatch.setattr(image_module, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(DataError, match="the image is too large"):
        read_images(tmp_path, form())


def test_many_images_go_to_a_temporary_file(folder: Path) -> None:
    small = read_images(folder, form(), memory_bytes_max=1, temporary_folder=folder.parent)
    assert isinstance(small.values, np.memmap)
    assert [path.name for path in folder.parent.iterdir()] == ["pets"]
    assert torch.equal(small.examples().inputs, read_images(folder, form()).examples().inputs)


def test_folders_that_are_no_classes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its folder 'cat', 'dog' is none of the classes 'x', 'y'"):
        read_images(folder, form(classes=("x", "y")))
    named = read_images(folder, form(classes=("x", "y"), folder_names={"cat": "y", "dog": "x"}))
    assert isinstance(named, Images)
    assert named.labels is not None
    assert named.labels.tolist() == [1, 1, 0]
    with pytest.raises(DataError, match="is not a folder"):
        read_images(tmp_path / "no", form())
    with pytest.raises(DataError, match="it has no folders"):
        read_images(folder / "dog", form())
    with pytest.raises(DataError, match="finds no person"):
        read_images(folder, form(person_pattern=r"patient(\d)"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 4)}, "must be height and width"),
        ({"fit": "zoom"}, "fit='zoom' must be one of"),
        ({"colour": "red"}, "colour='red' must be one of"),
        ({"folder_names": {"a": "cow"}}, "leads to 'cow'"),
        ({"person_pattern": "p(.)", "person_csv": Path("a.csv")}, "not both"),
    ],
)
def test_a_contradictory_form_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        form(**changes)
