"""Our AdamW gives the bits of torch's."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from device_client.learning.adamw import AdamW
from device_client.learning.seeding import seeded
from device_client.learning.training_loop import optimise
from device_client.task import Examples, Recipe, classification
from device_client.tasks.loading import load_task

STEPS = 12
DECAY = 0.05


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Uneven(nn.Module):
    """One frozen parameter, one without a gradient in odd steps, a scalar, a transposed matrix, and two dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(6, 5)
        self.frozen = nn.Parameter(torch.randn(5), requires_grad=False)
        self.sometimes = nn.Parameter(torch.randn(5))
        self.scale = nn.Parameter(torch.randn(()))
        self.transposed = nn.Parameter(torch.randn(5, 3).t())
        self.exact = nn.Parameter(torch.randn(3, dtype=torch.float64))
        self.step = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.step += 1
        hidden = self.dense(inputs) * self.scale + self.frozen
        if self.step % 2 == 0:
            hidden = hidden * self.sometimes
        return nn.functional.linear(hidden, self.transposed) * self.exact


def student(name: str) -> Callable[[], nn.Module]:
    return load_task(name, data=None).student


def rate(step: int) -> float:
    return 4e-3 * (step + 1) / STEPS


def trained(make: Callable[[], nn.Module], shape: Sequence[int], optimiser: str) -> list[bytes]:
    """The parameters after a few steps, as bytes."""
    with seeded(3):
        network = make()
        batches = [torch.randn(*shape) for _ in range(STEPS)]
    network.train()
    ours = AdamW(network.parameters(), weight_decay=DECAY)
    theirs = torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=DECAY, fused=True)
    with seeded(4):  # dropout
        for step, batch in enumerate(batches):
            ours.zero_grad()
            network(batch).square().mean().backward()
            if optimiser == "ours":
                ours.step(rate(step))
            else:
                theirs.param_groups[0]["lr"] = rate(step)
                theirs.step()
    return [parameter.detach().contiguous().numpy().tobytes() for parameter in network.parameters()]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (student("physiotherapy"), (32, 6, 100)),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)), (7, 6)),
        (Uneven, (4, 6)),
    ],
    ids=["physiotherapy", "dropout", "uneven"],
)
def test_every_bit_is_that_of_torchs_fused_adamw(make: Callable[[], nn.Module], shape: Sequence[int]) -> None:
    ours, theirs = (trained(make, shape, optimiser) for optimiser in ("ours", "theirs"))
    assert ours == theirs
    with seeded(3):
        assert ours != [parameter.detach().contiguous().numpy().tobytes() for parameter in make().parameters()]


def test_a_parameter_without_a_gradient_keeps_its_bits() -> None:
    parameter = nn.Parameter(torch.ones(3))
    AdamW([parameter], weight_decay=DECAY).step(0.1)
    assert torch.equal(parameter, torch.ones(3))


def test_a_parameter_of_two_networks_is_refused() -> None:
    shared = nn.Linear(2, 2)
    networks = [
        (nn.Sequential(shared, nn.Linear(2, 2)), lambda _step, _steps: 1e-3),
        (shared, lambda _step, _steps: 1e-3),
    ]
    with pytest.raises(ValueError, match="trained twice"):
        optimise(
            networks,
            lambda *_batch: pytest.fail("no batch is trained"),
            Examples.of(np.zeros((2, 2)), [0, 1]),
            Recipe(),
            objective=classification(("a", "b")),
            epochs=1,
            batch_size=2,
            seed=0,
            clock=lambda: 0.0,
            should_stop=lambda: False,
        )
