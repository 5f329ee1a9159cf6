"""Model files: safetensors with float32 tensors, and metadata that says what the weights are.

role       what the weights are for (`wire_contract/model_roles.py`); missing in files of older versions
task       name of the task
line       JSON: labels and fixed buffers (`wire_contract/line_description.py`); missing in files of older versions
layout     JSON [[name, [dimension, …]], …] in the order of the layout, because safetensors keeps no order; of running
           statistics [name, [dimension, …], "float32", kind]
version    decimal; only of a published version
rounds     decimal; only of a local teacher: rounds completed
digest     hexadecimal SHA-256 of the weights; if present, it must match them
second_moments  of running statistics (`encoding/statistics.py`); the tensors hold variances, as networks do
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import msgspec
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from wire_contract.encoding.statistics import from_stored, to_stored
from wire_contract.errors import LayoutError
from wire_contract.files.atomic_write import write_atomically
from wire_contract.files.permissions import PUBLIC
from wire_contract.layout import Layout, TensorKind, TensorSpec, Vector, digest
from wire_contract.line_description import LINE_KEY, LineDescription
from wire_contract.model_roles import ROLE_KEY, ROLES, Role, wrong_role

"""File modes: readable by everybody, or by the owner only."""


class ModelFileError(Exception):
    """A model file cannot be read or written; the message is one line that names it."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """The content of a model file."""

    task: str
    layout: Layout
    weights: Vector
    """float32 (layout.size,)."""
    version: int | None = None
    """None: it is not a published version (an initial model, a teacher)."""
    rounds: int | None = None
    """Rounds completed; only of a local teacher."""
    role: Role | None = None
    """None: the file was written by an older version and does not say."""
    line: LineDescription | None = None
    """Labels and fixed buffers of the network; None: the file was written by an older version and does not say."""


def write_model(path: Path, model: ModelFile, *, mode: int = PUBLIC) -> None:
    """Writes `model` to `path`, atomically; creates the folder.

    Raises:
        ModelFileError: it cannot be written.
        LayoutError: the weights do not fit the layout.
    """
    tensors, of_statistics = to_stored(model.layout, model.weights)
    metadata = {
        "task": model.task,
        "layout": json.dumps([_row(spec) for spec in model.layout.tensors]),
        "digest": digest(model.weights).hex(),
        **of_statistics,
    }
    if model.role is not None:
        metadata[ROLE_KEY] = model.role
    if model.line is not None:
        metadata[LINE_KEY] = msgspec.json.encode(model.line).decode()
    if model.version is not None:
        metadata["version"] = str(model.version)
    if model.rounds is not None:
        metadata["rounds"] = str(model.rounds)
    write_whole(path, safetensors.numpy.save(tensors, metadata), mode=mode)


def read_model(path: Path, *, task: str | None = None, roles: frozenset[Role] = frozenset()) -> ModelFile:
    """The model in the file at `path`.

    Args:
        path: of the file.
        task: that it must be of; None: any.
        roles: that it may have; empty: any. A file without a role is always accepted.

    Raises:
        ModelFileError: there is no such file, it has not the form above, or it is of another task or role.
    """
    try:
        path.open("rb").close()  # safetensors reports "no such file" for one without read permission
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            _check_metadata(path, metadata, task, roles)
            layout = _layout(metadata["layout"])
            line = msgspec.json.decode(metadata[LINE_KEY], type=LineDescription) if LINE_KEY in metadata else None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — it is not a dict
    except OSError as error:
        raise ModelFileError(f"model file {path}: {error.strerror or error}") from None
    except (SafetensorError, LayoutError, ValueError, TypeError, msgspec.MsgspecError) as error:
        raise ModelFileError(f"model file {path}: {error}") from None
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise ModelFileError(f"model file {path}: tensor {name!r} is {tensor.dtype}, not float32")
    # Checked first, so that no more is allocated than the file really holds.
    if {spec.name: spec.shape for spec in layout.tensors} != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ModelFileError(f"model file {path}: its tensors do not match its metadata layout")
    try:
        weights = from_stored(layout, tensors, metadata)
    except LayoutError as error:
        raise ModelFileError(f"model file {path}: {error}") from None
    if not np.isfinite(weights).all():
        raise ModelFileError(f"model file {path}: it contains values that are not finite")
    if metadata.get("digest", found := digest(weights).hex()) != found:
        raise ModelFileError(f"model file {path}: it is damaged: its weights do not match its metadata digest")
    return ModelFile(
        task=metadata["task"],
        layout=layout,
        weights=weights,
        version=_number(metadata, "version"),
        rounds=_number(metadata, "rounds"),
        role=cast("Role", metadata[ROLE_KEY]) if metadata.get(ROLE_KEY) in ROLES else None,
        line=line,
    )


def _check_metadata(path: Path, metadata: Mapping[str, str], task: str | None, roles: frozenset[Role]) -> None:
    missing = sorted({"task", "layout"} - set(metadata))
    if missing:
        raise ModelFileError(f"model file {path}: metadata {', '.join(missing)} missing; is it a model of asyncfedkd?")
    if task is not None and metadata["task"] != task:
        raise ModelFileError(f"model file {path}: it is of task {metadata['task']!r}, not {task!r}")
    wrong = wrong_role(metadata.get(ROLE_KEY), roles) if roles else None
    if wrong is not None:
        raise ModelFileError(f"model file {path}: {wrong}")


def _number(metadata: dict[str, str], name: str) -> int | None:
    text = metadata.get(name, "")
    return int(text) if text.isdecimal() else None


def _row(spec: TensorSpec) -> list[object]:
    row: list[object] = [spec.name, list(spec.shape)]
    return row if spec.kind == "weight" else [*row, spec.dtype, spec.kind]


def _layout(text: str) -> Layout:
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise LayoutError("metadata layout: not a list")
    specs = []
    for row in rows:
        match row:
            case [str(name), [*shape]] if all(type(dimension) is int for dimension in shape):
                specs.append(TensorSpec(name, tuple(shape)))
            case [str(name), [*shape], "float32", str(kind)] if all(
                type(dimension) is int for dimension in shape
            ) and kind in get_args(TensorKind):
                specs.append(TensorSpec(name, tuple(shape), "float32", cast("TensorKind", kind)))
            case _:
                raise LayoutError("metadata layout: a row is not [name, [dimension, …]]")
    return Layout(tuple(specs))


def write_whole(path: Path, content: bytes, *, mode: int = PUBLIC) -> None:
    """Writes a file atomically: it is complete or not there, even after a power cut.

    Raises:
        ModelFileError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content, mode=mode)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error.strerror or error}") from None
