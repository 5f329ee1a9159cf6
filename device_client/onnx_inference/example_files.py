"""Inputs and targets from .npy, .npz and .csv files.

    .npy    the only input, (example, …)
    .npz    arrays with the names of the model's inputs, (example, …); an only input may have any name. Targets:
            `labels` or `targets`. With `classes`, the names that the labels 0, 1, … stand for
    .csv    a header, then one line for each example: the values of the only input in the order of its elements.
            Targets: the columns `label` (a name or a number), or `target`, or those named as the model's labels

Labels may be names; numbers count the labels in the order of the model's metadata, unless `classes` says otherwise.
"""

import csv
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device_client.onnx_inference.exported_model import Array, ExportedModel, InputForm, OnnxModelError

_TARGETS = ("labels", "label", "targets", "target")
_ASIDE = (*_TARGETS, "classes", "persons")
"""Names in an .npz file that are no inputs."""
_HAS_NO_NEGATIVE = ("classification", "multi_label")


@dataclass(frozen=True, kw_only=True)
class ExampleFile:
    """What a file holds, checked against the model."""

    inputs: Mapping[str, Array]
    targets: Array | None
    """(example, …); None: it has none. Class indices count the labels in the model's order."""


def read_examples(path: Path, model: ExportedModel) -> ExampleFile:
    """Reads a file of examples.

    Raises:
        OnnxModelError: it cannot be read, or does not fit the model; one line.
    """
    readers = {".npy": _npy, ".npz": _npz, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise OnnxModelError(f"{path}: examples are read from {', '.join(readers)} files")
    try:
        return _checked(reader(path, model), model)
    except OnnxModelError as error:
        raise OnnxModelError(f"{path}: {error}") from None
    except OSError as error:
        raise OnnxModelError(f"{path}: {error.strerror or error}") from None
    except (ValueError, EOFError, KeyError, csv.Error, zipfile.BadZipFile) as error:
        raise OnnxModelError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


_Read = tuple[Mapping[str, Array], Array | None, Sequence[str] | None]
"""Inputs, targets, and the names that labels stand for."""


def _checked(read: _Read, model: ExportedModel) -> ExampleFile:
    given, targets, classes = read
    inputs = model.checked(given)
    if targets is None:
        return ExampleFile(inputs=inputs, targets=None)
    targets, count = _checked_targets(targets, classes, model), len(next(iter(inputs.values())))
    if len(targets) != count:
        raise OnnxModelError(f"{count} examples have {len(targets)} targets")
    return ExampleFile(inputs=inputs, targets=targets)


def _only_input(model: ExportedModel) -> InputForm:
    if len(model.inputs) != 1:
        names = ", ".join(form.name for form in model.inputs)
        raise OnnxModelError(f"the model has several inputs: give an .npz file with the arrays {names}")
    return model.inputs[0]


def _npy(path: Path, model: ExportedModel) -> _Read:
    with path.open("rb") as stream:
        loaded = np.load(stream)
        if not isinstance(loaded, np.ndarray):
            raise OnnxModelError("is no .npy file")
        return {_only_input(model).name: loaded}, None, None


def _npz(path: Path, model: ExportedModel) -> _Read:
    with path.open("rb") as stream, zipfile.ZipFile(stream), np.load(stream) as archive:
        arrays = {name: archive[name] for name in archive.files}
    inputs = {name: values for name, values in arrays.items() if name not in _ASIDE}
    if len(model.inputs) == len(inputs) == 1:
        inputs = {model.inputs[0].name: next(iter(inputs.values()))}
    targets = next((arrays[name] for name in _TARGETS if name in arrays), None)
    classes = [str(name) for name in arrays["classes"].tolist()] if "classes" in arrays else None
    return inputs, targets, classes


def _csv(path: Path, model: ExportedModel) -> _Read:
    form = _only_input(model)
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        lines = [(rows.line_num, row) for row in rows if row]
    for number, row in lines:
        if len(row) != len(header):
            raise OnnxModelError(f"line {number} has {len(row)} values, the header {len(header)}")
    labels = model.metadata.labels
    target_columns = [index for index, name in enumerate(header) if name in _TARGETS] or (
        [header.index(name) for name in labels] if labels and set(labels) <= set(header) else []
    )
    columns = [index for index in range(len(header)) if index not in target_columns]
    wanted = math.prod(size or 1 for size in form.shape)
    if None in form.shape:
        raise OnnxModelError(f"the model takes {form}, whose size varies, so give it as .npy or .npz")
    if wanted != len(columns):
        raise OnnxModelError(
            f"has {len(columns)} columns of inputs; the model takes {form}, so each line must hold the {wanted} values "
            "of one example, prepared as in training. A recording with one sample a line is first cut into windows "
            "(device_client.data) and saved as .npy"
        )
    values = np.array([[_number(row[index], number, header[index]) for index in columns] for number, row in lines])
    inputs = values.reshape(len(lines), *(size or 1 for size in form.shape))
    if not target_columns:
        return {form.name: inputs}, None, None
    texts = np.array([[row[index].strip() for index in target_columns] for _number_of_line, row in lines])
    return {form.name: inputs}, texts[:, 0] if len(target_columns) == 1 else texts, None


def _number(text: str, line: int, column: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OnnxModelError(f"line {line}, column {column}: {text!r} is no number") from None


def _checked_targets(given: Array, classes: Sequence[str] | None, model: ExportedModel) -> Array:
    """Class indices in the model's order as int64, or numbers as float64."""
    labels, kind = model.metadata.labels, model.metadata.objective
    targets = np.asarray(given)
    if kind in {"regression", "reconstruction", "multi_label"}:
        numbers = targets.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise OnnxModelError("some targets are NaN or infinite")
        if kind == "multi_label" and classes is not None:
            numbers = numbers[:, _order(classes, labels)]
        return numbers
    if targets.dtype.kind in "US" and targets.size and not _are_numbers(targets):
        return _indices_of(targets, labels)
    numbers = targets.astype(np.float64)
    indices = numbers.astype(np.int64)
    if (indices != numbers).any():
        raise OnnxModelError("labels must be names or whole numbers")
    if classes is not None:
        if indices.size and not 0 <= indices.min() <= indices.max() < len(classes):
            raise OnnxModelError(f"a label is not among the {len(classes)} classes of the file")
        return _indices_of(np.asarray(classes)[indices], labels)
    least = 0 if kind in _HAS_NO_NEGATIVE else None
    if labels and indices.size and (indices.max() >= len(labels) or (least is not None and indices.min() < least)):
        raise OnnxModelError(
            f"labels go from {indices.min()} to {indices.max()}; the model has 0 to {len(labels) - 1}: "
            f"{', '.join(labels)}"
        )
    return indices


def _are_numbers(texts: Array) -> bool:
    return all(text.lstrip("-").isdecimal() for text in texts.astype(str).ravel().tolist())


def _indices_of(names: Array, labels: Sequence[str]) -> Array:
    places = {label: index for index, label in enumerate(labels)}
    flat = names.astype(str).ravel().tolist()
    unknown = sorted(set(flat) - set(places))
    if unknown:
        raise OnnxModelError(f"label {', '.join(unknown[:5])} is not among the model's: {', '.join(labels) or 'none'}")
    return np.array([places[name] for name in flat], dtype=np.int64).reshape(names.shape)


def _order(classes: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Where each of the model's labels stands in the file."""
    if sorted(classes) != sorted(labels):
        raise OnnxModelError(f"the file has labels {', '.join(classes)}, the model {', '.join(labels)}")
    return [classes.index(label) for label in labels]
