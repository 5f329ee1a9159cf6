"""Folders of images, one folder for each class, read with Pillow (extra `images`)."""

import csv
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from device_client.data.faults import DataError, check_given, needed, place, read_errors, some
from device_client.data.series_form import check_pattern
from device_client.data.stored import MEMORY_BYTES_MAX, Store, Stored
from device_client.slow_work import slow_work
from device_client.task_checks import first_line

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".ppm", ".webp"})
"""Of the files that are read; others, such as notes, are passed over."""
Colour = Literal["gray", "rgb"]
Fit = Literal["crop", "stretch", "pad"]
_FULL_SCALE = 65_535
"""Images are kept as 16 bit whole numbers, which loses nothing of 8 and 16 bit images and takes half of float32."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """What the images of a folder are made into, and who is on them."""

    classes: tuple[str, ...]
    """The task's classes; a label is the index of an image's class folder here."""
    size: tuple[int, int]
    """Height and width in pixels."""
    colour: Colour = "gray"
    """gray: one channel. rgb: three; images of 16 bits a channel are gray only."""
    fit: Fit = "crop"
    """crop: scaled until it covers the size, and cut at the middle. pad: scaled until it fits into the size, the rest
    is 0. stretch: height and width are scaled apart."""
    folder_names: Mapping[str, str] = field(default_factory=dict)
    """From the name of a class folder to a class, where they differ."""
    person_pattern: str | None = None
    r"""A regular expression with one group that finds the person in an image's path within the folder, such as
    r"patient(\d+)_"."""
    person_csv: Path | None = None
    """A CSV file with columns `file` (the path within the folder, or the file's name) and `person`."""
    skip_unreadable: bool = False
    """True: images that cannot be decoded are left out, and counted in the summary. False: the first one is an error,
    because a data set that is smaller than the user thinks is worse than none."""

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise DataError(f"size={self.size!r} must be height and width in pixels")
        for name, value, known in (("colour", self.colour, get_args(Colour)), ("fit", self.fit, get_args(Fit))):
            if value not in known:
                raise DataError(f"{name}={value!r} must be one of {some(list(known))}")
        unknown = sorted(set(self.folder_names.values()) - set(self.classes))
        if unknown:
            raise DataError(f"folder_names leads to {some(unknown)}, which classes does not contain")
        if self.person_pattern is not None and self.person_csv is not None:
            raise DataError("give the person by person_pattern or person_csv, not both")
        if self.person_pattern is not None:
            check_pattern(self.person_pattern)


@dataclass(frozen=True, kw_only=True)
class Images(Stored):
    """Inputs are images (channel, height, width), float32 from 0 (black) to 1 (the brightest value of the format)."""

    shape: tuple[int, int, int]
    """Of one image."""

    def inputs(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Images (example, channel, height, width)."""
        rows = np.asarray(self.values[self.starts[chosen]], dtype=np.float32)
        return (rows / np.float32(_FULL_SCALE)).reshape(-1, *self.shape)


def read_images(
    folder: Path | str,
    form: ImageFolder,
    *,
    memory_bytes_max: int = MEMORY_BYTES_MAX,
    temporary_folder: Path | None = None,
) -> Images:
    """The images in the class folders of `folder` and their subfolders, in the order of their paths.

    Each is decoded once, scaled, and kept. If that takes more than two seconds, a line on standard error says so.

    Raises:
        DataError: Pillow is not installed, a folder is no class or a class has no folder, an image cannot be decoded
            (unless `skip_unreadable`), or its person is not known; one line that names the file.
    """
    check_given(folder)
    folder = Path(folder)
    files = _files(folder, form)
    person_of = _persons(folder, form)
    channels = 1 if form.colour == "gray" else 3
    shape = (channels, *form.size)
    store = Store(channels * form.size[0] * form.size[1], memory_bytes_max, temporary_folder, np.uint16)
    labels: list[int] = []
    persons: list[str] = []
    found: list[tuple[int, int, int, str]] = []
    unreadable: list[str] = []
    with slow_work(f"reading {folder}") as progress:
        for number, (file, label) in enumerate(files):
            progress.count(number, len(files), "images")
            try:
                pixels, (width, height) = _decoded(file, form)
            except _UnreadableError as error:
                if not form.skip_unreadable:
                    raise DataError(f"{error}; repair or delete it, or set skip_unreadable=True") from None
                unreadable.append(str(file))
                continue
            store.add(pixels.reshape(1, -1))
            labels.append(label)
            found.append((height, width, file.stat().st_size, file.suffix.lower()))
            if person_of is not None:
                persons.append(person_of(file))
    if not labels:
        raise DataError(f"{folder}: none of its {len(files):,} images can be decoded, the first is {files[0][0]}")
    summary = f"{len(labels):,} image{'' if len(labels) == 1 else 's'}, " + (
        "persons not known" if person_of is None else f"{len(set(persons)):,} persons"
    )
    if unreadable:
        summary += f"; left out: {len(unreadable):,} that cannot be decoded, the first is {unreadable[0]}"
    return Images(
        values=store.values(),
        starts=np.arange(len(labels), dtype=np.int64),
        labels=np.array(labels, dtype=np.int64),
        persons=None if person_of is None else np.array(persons, dtype=np.str_),
        classes=form.classes,
        attributes={
            name: np.array(values)
            for name, values in zip(("height", "width", "file_bytes", "format"), zip(*found, strict=True), strict=True)
        },
        summary=summary,
        shape=shape,
    )


class _UnreadableError(Exception):
    """An image cannot be decoded; the message names it."""


def _files(folder: Path, form: ImageFolder) -> list[tuple[Path, int]]:
    """Each image and its label."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the one that has a folder for each class")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    labels = {path: form.folder_names.get(path.name, path.name) for path in inside}
    unknown = [path.name for path, name in labels.items() if name not in form.classes]
    if unknown or not inside:
        found = f"its folder {some(unknown)} is" if unknown else "it has no folders, and should have one for each"
        raise DataError(
            f"{folder}: {found} none of the classes {some(list(form.classes))}; rename it, or translate it with "
            "folder_names"
        )
    files = [
        (file, form.classes.index(name))
        for path, name in labels.items()
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    if not files:
        raise DataError(f"{folder}: there are no images in its folders ({', '.join(sorted(SUFFIXES))})")
    return files


def _persons(folder: Path, form: ImageFolder) -> Any:
    """A function that maps a file to its person; None if persons are not known."""
    if form.person_pattern is not None:
        pattern = re.compile(form.person_pattern)

        def in_path(file: Path) -> str:
            found = pattern.search(file.relative_to(folder).as_posix())
            if found is None or not found.group(1):
                raise DataError(f"{file}: person_pattern={pattern.pattern!r} finds no person; correct one of the two")
            return found.group(1)

        return in_path
    if form.person_csv is None:
        return None
    table = _person_table(form.person_csv)

    def in_table(file: Path) -> str:
        inside = file.relative_to(folder).as_posix()
        person = table.get(inside, table.get(file.name))
        if person is None:
            raise DataError(f"{form.person_csv} has no row for the file {inside!r}; add its person")
        return person

    return in_table


def _person_table(path: Path) -> dict[str, str]:
    persons: dict[str, str] = {}
    with read_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames is None or not {"file", "person"} <= set(rows.fieldnames):
            raise DataError(f"{path} needs the columns file and person; it has {some(list(rows.fieldnames or []))}")
        for row in rows:
            name, person = (row["file"] or "").strip(), (row["person"] or "").strip()
            if not name or not person or persons.setdefault(name, person) != person:
                raise DataError(f"{place(path, rows.line_num)}: each file needs one person, and one only")
    return persons


def _decoded(file: Path, form: ImageFolder) -> tuple[npt.NDArray[np.uint16], tuple[int, int]]:
    """Pixels (channel, height, width), scaled to 16 bits, and the file's own width and height.

    Raises:
        _UnreadableError: the image cannot be decoded, or has colours in 16 bits.
    """
    image_module = needed("PIL.Image", extra="images", purpose="reading images")
    operations = needed("PIL.ImageOps", extra="images", purpose="reading images")
    try:
        with warnings.catch_warnings(), image_module.open(file) as opened:
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            image = operations.exif_transpose(opened)
            image.load()
            deep = image.mode.startswith("I") or image.mode == "F"
            if deep and form.colour == "rgb":
                raise _UnreadableError(f"{file}: 16 bit images are read with colour='gray' only")
            image = image.convert("F" if deep else {"gray": "L", "rgb": "RGB"}[form.colour])
    except (OSError, ValueError, SyntaxError, EOFError, image_module.DecompressionBombError) as error:
        raise _UnreadableError(f"{file}: the image cannot be decoded: {first_line(error)}") from None
    except image_module.DecompressionBombWarning as error:
        raise _UnreadableError(f"{file}: the image is too large: {first_line(error)}") from None
    (height, width), own_size = form.size, image.size
    resampling = image_module.Resampling.BILINEAR
    if form.fit == "crop":
        image = operations.fit(image, (width, height), resampling)
    elif form.fit == "pad":
        image = operations.pad(image, (width, height), resampling, color=0)
    else:
        image = image.resize((width, height), resampling)
    pixels = np.asarray(image, dtype=np.float32) * (1.0 if deep else _FULL_SCALE / 255)
    if pixels.ndim == 2:  # noqa: PLR2004 — height, width
        pixels = pixels[:, :, None]
    whole: npt.NDArray[np.uint16] = np.clip(np.rint(pixels), 0, _FULL_SCALE).astype(np.uint16)
    return whole.transpose(2, 0, 1), own_size
