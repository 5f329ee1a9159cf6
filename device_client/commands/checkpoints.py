"""Weights that another program has saved: safetensors, or a state dict of torch (`.pt`, `.pth`).

A state dict is read with `weights_only`, so nothing in it is executed; a pickled network is refused. It may stand in
the file by itself or in a checkpoint, under one of the usual keys, and its names may have the prefixes of
`DataParallel`, `torch.compile` or a training framework. Such a file does not say what it holds. So it must fit the
network exactly, and the network's fixed buffers must be those of the file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from device_client.learning.fixed_buffers import COUNTERS
from device_client.model_files import ModelFileError
from wire_contract.layout import different_tensors

STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "network", "weights")
"""Keys under which training programs put the state dict of a network into a checkpoint."""
PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
"""What wrappers of a network put before the names of its tensors."""
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
"""How files of `torch.save` begin, in its present and its old form."""
_HEADER_AT = 8
"""Where the header of a safetensors file begins, with a brace."""
_ABSOLUTE, _RELATIVE = 1e-6, 1e-5
"""Tolerances for fixed floating-point buffers, whose last bits may differ between machines."""


def is_own_file(path: Path) -> bool:
    """Whether the file is a safetensors file with metadata of this project, for `model_files.read_model`.

    Raises:
        ModelFileError: there is no such file, or it cannot be read.
    """
    if _is_of_torch(path):
        return False
    try:
        with safe_open(path, framework="numpy") as file:
            return bool({"task", "layout", "role"} & set(file.metadata() or {}))
    except SafetensorError as error:
        raise ModelFileError(
            f"model file {path}: it is neither a safetensors file nor a state dict saved by torch ({error})"
        ) from None


def load_checkpoint(path: Path, network: nn.Module, *, what: str) -> None:
    """Copies the weights in a file into `network`, which was just made.

    Args:
        path: of a file that `is_own_file` did not recognise.
        network: the student or teacher of a task.
        what: it is called in messages, such as "student of task har".

    Raises:
        ModelFileError: it cannot be read, or does not fit the network exactly; nothing was copied.
    """
    state = _read(path)
    own = {name: tensor for name, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}
    state = _without_prefix(state, own)
    buffers = {**dict(network.named_buffers()), **own}
    weights = {name: tensor for name, tensor in own.items() if tensor.is_floating_point()}
    missing = _not_covered(weights, state)
    found = {name: tensor for name, tensor in state.items() if not _is_counter(name)}
    here = {name: tuple(tensor.shape) for name, tensor in weights.items() if name in found or name in missing}
    there = {name: tuple(one.shape) for name, one in found.items() if name in weights or name not in buffers}
    if here != there:
        raise ModelFileError(
            f"model file {path}: does not fit the {what}: {different_tensors(here, there, place='the file')}; it must "
            "fit exactly. To start from a part of it, let the task's constructor load that part"
        )
    for name in sorted(set(found) - set(weights)):
        _check_fixed(path, name, found[name], buffers[name], what)
    converted = {name: _converted(path, name, found[name], weights[name]) for name in here}
    with torch.no_grad():
        for name, tensor in converted.items():
            weights[name].copy_(tensor)


def _is_of_torch(path: Path) -> bool:
    """Whether the file was saved by torch, by how it begins."""
    try:
        with path.open("rb") as file:
            beginning = file.read(_HEADER_AT + 1)
    except OSError as error:
        raise ModelFileError(f"model file {path}: {error.strerror or error}") from None
    # A safetensors file begins with the length of its header, which may look like the beginning of a pickle.
    is_safetensors = beginning[_HEADER_AT:] == b"{"
    return not is_safetensors and beginning.startswith((_ZIP, _PICKLE))


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file."""
    if not _is_of_torch(path):
        from safetensors.torch import load_file  # noqa: PLC0415 - a file of this project does not need it

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise ModelFileError(f"model file {path}: {error}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise ModelFileError(
            f"model file {path}: it contains Python objects{what}, which are never loaded because they could run any "
            "code; save the weights alone: torch.save(network.state_dict(), 'weights.pt')"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelFileError(f"model file {path}: torch cannot read it: {reason}") from None
    return _state_in(path, content)


def _state_in(path: Path, content: object) -> dict[str, Tensor]:
    """The state dict of a network in the content of a file."""
    candidates = [content]
    if isinstance(content, Mapping):
        candidates = [*(content[key] for key in STATE_KEYS if key in content), content]
    for one in candidates:
        if isinstance(one, Mapping):
            tensors = {str(name): tensor for name, tensor in one.items() if isinstance(tensor, Tensor)}
            if tensors:
                return tensors
    keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
    raise ModelFileError(
        f"model file {path}: it holds no state dict, but {keys or 'nothing'}; save one with "
        "torch.save(network.state_dict(), 'weights.pt')"
    )


def _without_prefix(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without what wrappers put before its names, if no name is known with it."""
    while state and not set(state) & set(own):
        prefix = next((one for one in PREFIXES if all(name.startswith(one) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _not_covered(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> set[str]:
    """The weights that the file lacks. Of tied ones, which share their memory, it need not have more than one."""
    covered = {_memory(tensor) for name, tensor in weights.items() if name in state}
    return {name for name, tensor in weights.items() if name not in state and _memory(tensor) not in covered}


def _memory(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTERS


def _check_fixed(path: Path, name: str, found: Tensor, own: Tensor, what: str) -> None:
    same = found.shape == own.shape and torch.allclose(
        found.to(torch.complex128), own.to(torch.complex128), rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True
    )
    if not same:
        raise ModelFileError(
            f"model file {path}: buffer {name} has other values in the file than in the {what}; it is not sent, so "
            "every program must make the same values: let the task's constructor make or load those of the file"
        )


def _converted(path: Path, name: str, found: Tensor, own: Tensor) -> Tensor:
    if not found.is_floating_point():
        raise ModelFileError(f"model file {path}: tensor {name} is {found.dtype}, not floating-point")
    tensor = found.to(own.dtype)
    if not torch.isfinite(tensor).all():
        raise ModelFileError(f"model file {path}: tensor {name} has values that are not finite as {own.dtype}")
    return tensor
