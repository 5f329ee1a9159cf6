"""A model in a file: safetensors, every tensor float32, with metadata that says what it is.

role       what the weights are for (`wire_contract/model_roles.py`); files made before there were roles lack it
task       name of the task
layout     JSON [[name, [dimension, …]], …] in the order of the layout; safetensors itself keeps no order
version    decimal, where the model is a published version
rounds     decimal, of a local teacher: how many rounds it has learned
digest     hexadecimal SHA-256 of the weights; where it is there, it must be theirs
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from wire_contract.errors import LayoutError
from wire_contract.files.atomic_write import write_atomically
from wire_contract.files.permissions import PUBLIC
from wire_contract.layout import Layout, TensorSpec, Vector, digest
from wire_contract.model_roles import ROLE_KEY, ROLES, Role, wrong_role

"""Who may read a file: everybody, or its owner alone."""


class ModelFileError(Exception):
    """A model file cannot be read or written: one line with its name."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """What a model file holds."""

    task: str
    layout: Layout
    weights: Vector
    """float32 (layout.size,)."""
    version: int | None = None
    """None: not a published version (an initial model, a teacher)."""
    rounds: int | None = None
    """Of a local teacher."""
    role: Role | None = None
    """None: the file does not say; it was made by an older version."""


def write_model(path: Path, model: ModelFile, *, mode: int = PUBLIC) -> None:
    """Writes `model`, replacing what stands at `path` in one step; makes the folder.

    Raises:
        ModelFileError: it cannot be written.
        LayoutError: the weights do not fit their layout.
    """
    metadata = {
        "task": model.task,
        "layout": json.dumps([[spec.name, list(spec.shape)] for spec in model.layout.tensors]),
        "digest": digest(model.weights).hex(),
    }
    if model.role is not None:
        metadata[ROLE_KEY] = model.role
    if model.version is not None:
        metadata["version"] = str(model.version)
    if model.rounds is not None:
        metadata["rounds"] = str(model.rounds)
    # safetensors writes a view as if it were the whole array, so each tensor is a copy.
    tensors = {name: np.array(view, order="C") for name, view in model.layout.views(model.weights).items()}
    write_whole(path, safetensors.numpy.save(tensors, metadata), mode=mode)


def read_model(path: Path, *, task: str | None = None, roles: frozenset[Role] = frozenset()) -> ModelFile:
    """The model at `path`, of the named task if one is named.

    Args:
        path: of the file.
        task: None: any.
        roles: what it may hold; a file that does not say is taken as well. None given: anything.

    Raises:
        ModelFileError: there is none, it is not of the form above, or it is of another task or role.
    """
    try:
        path.open("rb").close()  # safetensors says "no such file" of one that may not be read
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            _check_metadata(path, metadata, task, roles)
            layout = _layout(metadata["layout"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — it is not a dict
    except OSError as error:
        raise ModelFileError(f"model file {path}: {error.strerror or error}") from None
    except (SafetensorError, LayoutError, ValueError, TypeError) as error:
        raise ModelFileError(f"model file {path}: {error}") from None
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise ModelFileError(f"model file {path}: tensor {name!r} is {tensor.dtype}, not float32")
    # Compared before anything as large as the layout claims to be is allocated.
    if {spec.name: spec.shape for spec in layout.tensors} != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ModelFileError(f"model file {path}: its tensors are not those of its metadata layout")
    weights = layout.flatten(tensors)
    if not np.isfinite(weights).all():
        raise ModelFileError(f"model file {path}: holds values that are not finite")
    if metadata.get("digest", found := digest(weights).hex()) != found:
        raise ModelFileError(f"model file {path}: is damaged, its weights are not those of its metadata digest")
    return ModelFile(
        task=metadata["task"],
        layout=layout,
        weights=weights,
        version=_number(metadata, "version"),
        rounds=_number(metadata, "rounds"),
        role=cast("Role", metadata[ROLE_KEY]) if metadata.get(ROLE_KEY) in ROLES else None,
    )


def _check_metadata(path: Path, metadata: Mapping[str, str], task: str | None, roles: frozenset[Role]) -> None:
    missing = sorted({"task", "layout"} - set(metadata))
    if missing:
        raise ModelFileError(f"model file {path}: metadata {', '.join(missing)} missing; was it made here?")
    if task is not None and metadata["task"] != task:
        raise ModelFileError(f"model file {path}: is of task {metadata['task']!r}, not {task!r}")
    wrong = wrong_role(metadata.get(ROLE_KEY), roles) if roles else None
    if wrong is not None:
        raise ModelFileError(f"model file {path}: {wrong}")


def _number(metadata: dict[str, str], name: str) -> int | None:
    text = metadata.get(name, "")
    return int(text) if text.isdecimal() else None


def _layout(text: str) -> Layout:
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise LayoutError("metadata layout: is not a list")
    specs = []
    for row in rows:
        match row:
            case [str(name), [*shape]] if all(type(dimension) is int for dimension in shape):
                specs.append(TensorSpec(name, tuple(shape)))
            case _:
                raise LayoutError("metadata layout: a row is not [name, [dimension, …]]")
    return Layout(tuple(specs))


def write_whole(path: Path, content: bytes, *, mode: int = PUBLIC) -> None:
    """The file is there whole or not at all, also after a power cut.

    Raises:
        ModelFileError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content, mode=mode)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error.strerror or error}") from None
