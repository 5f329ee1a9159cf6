"""AdamW (Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2), by torch's fused kernel.

`torch.optim.AdamW(fused=True)` calls the same kernel and gives the same bits, but creating one of torch's optimisers
imports its compiler (torch._dynamo, and with it sympy and torch.onnx): 75 MB and more than a second, on a gateway
that compiles nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
"""The defaults of `torch.optim.AdamW`."""


@dataclass(frozen=True, eq=False)
class _Moments:
    """The state of one parameter; float32 counts steps exactly up to 2^24."""

    mean: Tensor
    mean_square: Tensor
    steps: Tensor


@dataclass(eq=False)
class _Batch:
    """The arguments of one call of the kernel, which takes tensors of one device and one dtype."""

    parameters: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    mean_squares: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)


class AdamW:
    """Updates parameters in place. The first step of each parameter creates its moments, as zeros."""

    def __init__(self, parameters: Iterable[Tensor], *, weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._weight_decay = weight_decay
        self._moments: dict[int, _Moments] = {}
        """By the parameter's position."""

    def zero_grad(self) -> None:
        """Drops the gradients; a parameter without a gradient is left as it is by `step`."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step along the gradients, with this learning rate."""
        for batch in self._batches():
            torch._foreach_add_(batch.steps, 1)
            torch._fused_adamw_(
                batch.parameters,
                batch.gradients,
                batch.means,
                batch.mean_squares,
                [],  # maxima of the mean squares, for AMSGrad
                batch.steps,
                lr=rate,
                beta1=_BETA_1,
                beta2=_BETA_2,
                weight_decay=self._weight_decay,
                eps=_EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def _batches(self) -> Iterable[_Batch]:
        batches: dict[tuple[torch.device, torch.dtype], _Batch] = {}
        for position, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                continue
            if position not in self._moments:
                self._moments[position] = _Moments(
                    mean=torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    mean_square=torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    steps=torch.zeros((), dtype=torch.float32, device=parameter.device),
                )
            moments = self._moments[position]
            batch = batches.setdefault((parameter.device, parameter.dtype), _Batch())
            batch.parameters.append(parameter)
            # The kernel takes no sparse gradients, such as those of nn.Embedding(sparse=True).
            batch.gradients.append(parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad)
            batch.means.append(moments.mean)
            batch.mean_squares.append(moments.mean_square)
            batch.steps.append(moments.steps)
        return batches.values()
