"""Reads the initial model of a line: a safetensors file with the layout in its metadata.

safetensors does not keep the order of tensors, so `asyncfedkd device initial-model` writes it into metadata key
`layout`, as JSON `[[name, [shape]], …]`, with dtype and kind for running statistics; the task is in key `task`, and the
purpose of the weights in key `role` (`wire_contract/model_roles.py`). The initial model is published to everybody, and
only the role distinguishes a student from a teacher; so a line is started only from a file that is marked as a student.
Key `line` describes the student's outputs and fixed buffers (`wire_contract/line_description.py`); files of older
versions do not have it.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open

from wire_contract.encoding.statistics import from_stored
from wire_contract.errors import ContractError, LayoutError
from wire_contract.layout import Layout, TensorSpec, Vector
from wire_contract.limits import MODEL_LIMITS, TENSORS_MAX
from wire_contract.line_description import LINE_KEY, LineDescription
from wire_contract.model_roles import ROLE_KEY, STUDENTS, wrong_role


class InitialModelError(ContractError):
    """The file cannot be used; the message says what to do."""


@dataclass(frozen=True, eq=False)
class InitialModel:
    """The content of an initial model's file."""

    layout: Layout
    weights: Vector
    """float32 (layout.size,)."""
    line: LineDescription | None
    """What the student's outputs and fixed buffers are; None: the file was made by an older version."""


def read_initial_model(path: Path, *, task: str, is_published: bool = True) -> InitialModel:
    """The initial model in a file.

    Args:
        path: of the file.
        task: that it must belong to.
        is_published: the weights will be published, so the file must be marked as a student; otherwise a file without a
            role is accepted, too.

    Raises:
        InitialModelError: missing, not safetensors, of another task, not a student, or its values are not finite.
    """
    place = "initial.safetensors" if path.exists() else path  # an existing file must not be overwritten
    hint = f"make one with: asyncfedkd device initial-model --task {task} --out {place}"
    if not path.is_file():
        raise InitialModelError(f"initial model {path}: there is no such file; {hint}")
    try:
        path.open("rb").close()  # safetensors reports an unreadable file as missing
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            layout = _layout(metadata)
            if metadata.get("task") != task:
                raise InitialModelError(f"initial model {path}: is for task {metadata.get('task')!r}, not {task!r}")
            _check_role(path, metadata.get(ROLE_KEY), task=task, is_published=is_published)
            line = msgspec.json.decode(metadata[LINE_KEY], type=LineDescription) if LINE_KEY in metadata else None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            weights = from_stored(layout, tensors, metadata)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, LayoutError, msgspec.MsgspecError) as error:
        raise InitialModelError(f"initial model {path}: {error or type(error).__name__}; {hint}") from None
    if not np.isfinite(weights).all():
        raise InitialModelError(f"initial model {path}: values are not finite; {hint}")
    return InitialModel(layout, weights, line)


def _check_role(path: Path, role: str | None, *, task: str, is_published: bool) -> None:
    wrong = wrong_role(role, STUDENTS)
    if wrong is not None:
        raise InitialModelError(
            f"initial model {path}: {wrong}; a teacher must never be published, so nothing was: give the file that "
            f"`asyncfedkd device initial-model --task {task}` wrote"
        )
    if role is None and is_published:
        raise InitialModelError(
            f"initial model {path}: does not say that it holds a student (it was made by an older version, or by "
            "another program), and what a line begins with is published; have it checked against the task's student "
            f"with: asyncfedkd device initial-model --task {task} --weights {path} --out NEW.safetensors"
        )


def _layout(metadata: dict[str, str]) -> Layout:
    if "layout" not in metadata:
        raise LayoutError("its metadata has no layout")
    layout = Layout(tuple(msgspec.json.decode(metadata["layout"], type=list[TensorSpec])))
    # Before anything of that size is allocated: the file may be small and its metadata wrong.
    if not 0 < len(layout.tensors) <= TENSORS_MAX or layout.size > MODEL_LIMITS.elements:
        raise LayoutError(
            f"{len(layout.tensors)} tensors with {layout.size} numbers; "
            f"1 to {TENSORS_MAX} with up to {MODEL_LIMITS.elements} can be published"
        )
    return layout
