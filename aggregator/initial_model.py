"""Reads the model that a line begins with: safetensors, with the tensors' order in its metadata.

safetensors sorts tensors its own way, so `asyncfedkd device initial-model` writes the order of the layout into
metadata key `layout`, JSON `[[name, [shape]], …]`, the task into key `task`, and what the weights are for into key
`role` (`wire_contract/model_roles.py`). What a line begins with is published to everybody, and only the role tells a
student from a teacher here; so a line is begun only from a file that says that it holds a student.
"""

from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open

from wire_contract.errors import ContractError, LayoutError
from wire_contract.layout import Layout, TensorSpec, Vector
from wire_contract.limits import MODEL_LIMITS, TENSORS_MAX
from wire_contract.model_roles import ROLE_KEY, STUDENTS, wrong_role


class InitialModelError(ContractError):
    """The initial model file cannot be used; the text says what to do."""


def read_initial_model(path: Path, *, task: str, is_published: bool = True) -> tuple[Layout, Vector]:
    """Layout and weights (layout.size,) of the file.

    Args:
        path: of the file.
        task: that it must be of.
        is_published: a line is begun with these weights, so the file must say that they are a student's; else a file
            without a role is taken too.

    Raises:
        InitialModelError: missing, not safetensors, of another task, no student's, or its values are not finite.
    """
    place = "initial.safetensors" if path.exists() else path  # whatever is there is not ours to write over
    hint = f"make one with: asyncfedkd device initial-model --task {task} --out {place}"
    if not path.is_file():
        raise InitialModelError(f"initial model {path}: there is no such file; {hint}")
    try:
        path.open("rb").close()  # safetensors says "no such file" of one that may not be read
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            layout = _layout(metadata)
            if metadata.get("task") != task:
                raise InitialModelError(f"initial model {path}: is for task {metadata.get('task')!r}, not {task!r}")
            _check_role(path, metadata.get(ROLE_KEY), task=task, is_published=is_published)
            weights = layout.flatten({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no dict
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, LayoutError, msgspec.MsgspecError) as error:
        raise InitialModelError(f"initial model {path}: {error or type(error).__name__}; {hint}") from None
    if not np.isfinite(weights).all():
        raise InitialModelError(f"initial model {path}: values are not finite; {hint}")
    return layout, weights


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
    # Before anything of that size is made: the file may be small and its metadata wrong.
    if not 0 < len(layout.tensors) <= TENSORS_MAX or layout.size > MODEL_LIMITS.elements:
        raise LayoutError(
            f"{len(layout.tensors)} tensors with {layout.size} numbers; "
            f"1 to {TENSORS_MAX} with up to {MODEL_LIMITS.elements} can be published"
        )
    return layout
