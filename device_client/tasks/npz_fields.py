"""The arrays of a task's npz file, by name, with shapes and types checked. No pickle is read."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_client.task import TaskError

Fields = dict[str, npt.NDArray[np.generic]]


def read_fields(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> Fields:
    """The arrays with these names, and those of `optional` that the file has; others in the file are left out.

    Raises:
        TaskError: the file cannot be read, or lacks one.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise TaskError(f"{path}: fields {', '.join(missing)} are missing; it needs {', '.join(names)}")
            return {name: archive[name] for name in (*names, *optional) if name in archive.files}
    except ValueError:  # numpy's text advises to load pickles, which run whatever code they hold
        raise TaskError(f"{path} is not a readable npz file, or holds Python objects, which are not read") from None
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise TaskError(f"{path} is not a readable npz file: {error}") from error


def check_fields(path: Path, fields: Fields, shapes: Mapping[str, tuple[int, ...]], kinds: Mapping[str, str]) -> None:
    """Checks shapes and types.

    Args:
        path: for messages.
        fields: by name.
        shapes: that they must have; a first dimension of 0 is not allowed.
        kinds: of numpy's data types that they may have, such as "iu" for integers.

    Raises:
        TaskError: one has another shape or type, or there are no rows.
    """
    for name, shape in shapes.items():
        if fields[name].shape != shape or shape[:1] == (0,):
            raise TaskError(f"{path}: field {name} has shape {fields[name].shape}, not {shape or 'a single number'}")
    for name, allowed in kinds.items():
        if fields[name].dtype.kind not in allowed:
            numbers = ["numbers" if "f" in allowed else "integers"] if "i" in allowed else []
            wanted = " or ".join([*numbers, *(["text"] if "U" in allowed else [])])
            raise TaskError(f"{path}: field {name} holds {fields[name].dtype}, not {wanted}")


def is_training(path: Path, fields: Fields) -> npt.NDArray[np.bool_]:
    """Which rows the field `split` marks "train"; the others are marked "test".

    Raises:
        TaskError: one is marked otherwise.
    """
    split = fields["split"]
    if not set(np.unique(split).tolist()) <= {"train", "test"}:
        raise TaskError(f"{path}: field split holds {sorted(set(split.tolist()))}, not only train and test")
    return np.asarray(split == "train")


def check_label_range(path: Path, labels: npt.NDArray[np.integer], count: int) -> None:
    """Checks that the field `y` indexes `count` labels.

    Raises:
        TaskError: it does not.
    """
    if int(labels.min()) < 0 or int(labels.max()) >= count:
        raise TaskError(f"{path}: field y goes from {labels.min()} to {labels.max()}, but there are {count} labels")
