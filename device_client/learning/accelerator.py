"""Where networks are computed: on a CUDA device or the CPU."""

from collections.abc import Callable
from typing import Literal

import torch

from device_client.task import TaskError


def accelerator_of(
    choice: Literal["auto", "cpu", "cuda"], *, available: Callable[[], bool] = torch.cuda.is_available
) -> torch.device:
    """The device for networks; batches follow them there (`placement`), and weights come back to the CPU.

    Args:
        choice: auto takes CUDA if there is a device.
        available: whether there is a CUDA device.

    Raises:
        TaskError: CUDA is asked for, and there is none.
    """
    if choice == "cpu":
        return torch.device("cpu")
    if available():
        return torch.device("cuda")
    if choice == "cuda":
        build = "" if torch.version.cuda else "; this PyTorch is a CPU build"
        raise TaskError(f"--accelerator cuda: there is no CUDA device{build}; give --accelerator auto or cpu")
    return torch.device("cpu")
