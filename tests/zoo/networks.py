"""Networks as people bring them, each small: recurrent, attention, BatchNorm, tied, frozen, normalised, half precision.

They follow the published designs in miniature; the names in the docstrings say which.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

CHANNELS, SAMPLES, CLASSES = 6, 32, 3
"""Of a window of a wearable: inputs (batch, channel, sample) to logits (batch, class)."""
TOKENS, LENGTH = 20, 12
"""Size of a vocabulary, and tokens of a text."""


class Recurrent(nn.Module):
    """LSTM or GRU over the samples of a window; the last hidden state is classified."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], hidden: int = 16) -> None:
        super().__init__()
        self.recurrent = kind(CHANNELS, hidden, batch_first=True)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        hidden, _state = self.recurrent(windows.transpose(1, 2))  # (batch, sample, hidden)
        return self.head(hidden[:, -1])  # type: ignore[no-any-return]


class WindowTransformer(nn.Module):
    """An encoder of `nn.TransformerEncoderLayer` over the samples, with learned positions (Vaswani et al. 2017)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.positions = nn.Parameter(torch.randn(SAMPLES, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        hidden = self.encoder(self.embed(windows.transpose(1, 2)) + self.positions)
        return self.head(hidden.mean(dim=1))  # type: ignore[no-any-return]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(width, width, 5, padding=2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, padding=2, bias=False),
            nn.BatchNorm1d(width),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.relu(inputs + self.body(inputs))


class ResNet1d(nn.Module):
    """A residual network for time series with BatchNorm (Wang et al. 2017)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(CHANNELS, width, 7, padding=3, bias=False), nn.BatchNorm1d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(_Residual(width), _Residual(width))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(windows)).mean(dim=2))  # type: ignore[no-any-return]


class InceptionTime(nn.Module):
    """Parallel convolutions of several lengths and a pooling branch, with BatchNorm (Ismail Fawaz et al. 2020)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.bottleneck = nn.Conv1d(CHANNELS, width, 1, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv1d(width, width, length, padding=length // 2, bias=False) for length in (3, 7, 15)
        )
        self.pooled = nn.Sequential(nn.MaxPool1d(3, stride=1, padding=1), nn.Conv1d(CHANNELS, width, 1, bias=False))
        self.norm = nn.BatchNorm1d(4 * width)
        self.head = nn.Linear(4 * width, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        narrow = self.bottleneck(windows)
        branches = [branch(narrow) for branch in self.branches] + [self.pooled(windows)]
        hidden = functional.relu(self.norm(torch.cat(branches, dim=1)))
        return self.head(hidden.mean(dim=2))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Two levels with a skip connection and BatchNorm (Ronneberger et al. 2015): images (batch, 1, y, x) to logits
    (batch, class, y, x).
    """

    def __init__(self, width: int = 8, classes: int = 2) -> None:
        super().__init__()
        self.down = _convolved(1, width)
        self.bottom = _convolved(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.merged = _convolved(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.down(images)
        coarse = self.up(self.bottom(functional.max_pool2d(fine, 2)))
        return self.head(self.merged(torch.cat([fine, coarse], dim=1)))  # type: ignore[no-any-return]


def _convolved(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class MobileNet(nn.Module):
    """Inverted residuals with depthwise convolutions, BatchNorm and ReLU6 (Sandler et al. 2018); images
    (batch, 3, y, x).
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()
        )
        wide = 4 * width
        self.block = nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(width, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images)
        return self.head(hidden + self.block(hidden))  # type: ignore[no-any-return]


class Bert(nn.Module):
    """An encoder that takes `input_ids` and `attention_mask` and returns a dict, as models of the library transformers
    do (Devlin et al. 2019). The positions are an integer buffer outside the state dict, as there.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.words = nn.Embedding(TOKENS, width)
        self.places = nn.Embedding(LENGTH, width)
        self.register_buffer("position_ids", torch.arange(LENGTH)[None], persistent=False)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.pooler = nn.Linear(width, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        hidden = self.norm(self.words(input_ids) + self.places(self.get_buffer("position_ids")))
        attended, _weights = self.attention(hidden, hidden, hidden, key_padding_mask=attention_mask == 0)
        hidden = hidden + attended
        hidden = hidden + self.feed(hidden)
        pooled = torch.tanh(self.pooler(hidden[:, 0]))
        return {"logits": self.head(pooled), "pooler_output": pooled}


class TiedLanguageModel(nn.Module):
    """A next-token model whose output layer is its embedding (Press and Wolf 2017): tokens (batch, place) to logits
    (batch, place, token).
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, TOKENS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _state = self.recurrent(self.embed(tokens))
        return self.head(hidden)  # type: ignore[no-any-return]


class FrozenBackbone(nn.Module):
    """A backbone that stays as it was pre-trained, and a head that learns; one scalar scales the logits."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv1d(CHANNELS, width, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(4))
        self.backbone.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(4 * width, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        return self.scale * self.head(self.backbone(windows).flatten(1))  # type: ignore[no-any-return]


class SpectralNorm(nn.Module):
    """Convolutions under spectral normalisation (Miyato et al. 2018): a parametrisation with buffers of its own."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            spectral_norm(nn.Conv1d(CHANNELS, width, 5, padding=2)), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten()
        )
        self.head = spectral_norm(nn.Linear(4 * width, CLASSES))

    def forward(self, windows: Tensor) -> Tensor:
        return 4 * self.head(self.body(windows))  # type: ignore[no-any-return]


class Bf16(nn.Module):
    """Weights in bfloat16; inputs and logits in float32."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(CHANNELS * SAMPLES, width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Linear(width, CLASSES),
        ).to(torch.bfloat16)

    def forward(self, windows: Tensor) -> Tensor:
        return self.body(windows.to(torch.bfloat16)).float()  # type: ignore[no-any-return]


class Tcn(nn.Module):
    """Dilated causal convolutions under weight normalisation: two parameters for each weight (Bai et al. 2018)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv1d(inputs, width, 3, dilation=dilation))
            for inputs, dilation in ((CHANNELS, 1), (width, 2), (width, 4))
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        for level, layer in enumerate(self.layers):
            windows = functional.relu(layer(functional.pad(windows, (2 * 2**level, 0))))
        return self.head(windows[:, :, -1])  # type: ignore[no-any-return]


class InstanceNorm(nn.Module):
    """InstanceNorm with running statistics, as BatchNorm has, before GroupNorm (Ulyanov et al. 2016)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(CHANNELS, width, 5, padding=2),
            nn.InstanceNorm1d(width, affine=True, track_running_stats=True),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.GroupNorm(4, width),
            nn.ReLU(),
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        return self.head(self.body(windows).amax(dim=2))  # type: ignore[no-any-return]
