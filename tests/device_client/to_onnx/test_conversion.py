"""Any network becomes the same function in ONNX, and one that cannot be is refused with the line that is the cause."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import orthogonal
from torch.nn.utils.parametrize import is_parametrized

from device_client.learning.seeding import seeded
from device_client.to_onnx import parity
from device_client.to_onnx.conversion import OnnxModel, onnx_of
from device_client.to_onnx.errors import ExportError
from device_client.to_onnx.signature import named_inputs
from device_client.to_onnx.tracing import Flat, trace


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


TOKENS = torch.arange(24).reshape(2, 12) * 5 % 7


@dataclass
class Output:
    """As transformers' ModelOutput: fields that are tensors or None."""

    loss: Tensor | None
    logits: Tensor


class TwoInputs(nn.Module):
    """An ECG and its RR intervals."""

    def __init__(self) -> None:
        super().__init__()
        self.wave, self.interval = nn.Linear(6, 3), nn.Linear(2, 3)

    def forward(self, ecg: Tensor, rr: Tensor) -> dict[str, Any]:
        hidden = self.wave(ecg)
        return {"logits": hidden + self.interval(rr), "hidden": hidden, "past": (rr, (rr,)), "none": None}


class Tied(nn.Module):
    """Next token: attention without heads, and an embedding that is the output layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(7, 8), nn.Linear(8, 7, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Output:
        hidden = self.embedding(input_ids)
        mask = None if attention_mask is None else attention_mask[:, None, :].bool()
        return Output(None, self.out(functional.scaled_dot_product_attention(hidden, hidden, hidden, attn_mask=mask)))


class InBfloat16(nn.Module):
    """Weights and computation in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3).bfloat16()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.bfloat16()).float() + self.layer(inputs.to(torch.bfloat16)).to(dtype=torch.float32)


class Autoencoder(nn.Module):
    """Returns its input as well, under the same name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(6, 6), nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"inputs": inputs, "reconstruction": self.layer(inputs) * self.scale, "mean": self.scale * 1}


class BatchLoop(nn.Module):
    """Its way depends on the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([self.layer(inputs[index]) for index in range(len(inputs))])


class Noisy(nn.Module):
    """Draws random numbers in evaluation mode, too."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.randn_like(inputs)


class Undecided(nn.Module):
    """Its way depends on the numbers in it."""

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.sum() > 0:  # the line that is the cause
            return inputs
        return -inputs


class Bessel(nn.Module):
    """Uses an operator that ONNX does not have."""

    def forward(self, inputs: Tensor) -> Tensor:
        wave = inputs * 2
        return torch.special.bessel_j0(wave)  # the line that is the cause


def made(make: Callable[[], nn.Module], inputs: Any) -> OnnxModel:
    with seeded(1):
        return onnx_of(make(), inputs, {"task": "own"})


def normalised() -> nn.Module:
    layers = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 2)
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("make", "inputs", "names", "outputs"),
    [
        (normalised, numbers(2, 3, 9), ("inputs",), ("logits",)),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)), numbers(1, 6), ("inputs",), ("logits",)),
        (TwoInputs, (numbers(2, 6), numbers(2, 2)), ("ecg", "rr"), ("logits", "hidden", "past_0", "past_1_0")),
        (
            TwoInputs,
            {"rr": numbers(4, 2), "ecg": numbers(4, 6)},
            ("rr", "ecg"),
            ("logits", "hidden", "past_0", "past_1_0"),
        ),
        (Tied, TOKENS, ("inputs",), ("logits",)),
        (
            Tied,
            {"input_ids": TOKENS, "attention_mask": torch.ones(2, 12)},
            ("input_ids", "attention_mask"),
            ("logits",),
        ),
        (InBfloat16, numbers(2, 6), ("inputs",), ("logits",)),
        (Autoencoder, numbers(2, 6), ("inputs",), ("inputs_out", "reconstruction", "mean")),
    ],
)
def test_inputs_outputs_and_batch_size(
    make: Callable[[], nn.Module], inputs: Any, names: tuple[str, ...], outputs: tuple[str, ...]
) -> None:
    model = made(make, inputs)
    assert (model.inputs, model.outputs, model.batch_size, model.notes) == (names, outputs, None, ())
    assert model.difference is not None
    assert model.difference < 1e-5
    session = onnxruntime.InferenceSession(model.content)
    assert {value.type for value in session.get_outputs()} == {"tensor(float)"}
    about = session.get_modelmeta().custom_metadata_map
    assert about == {
        "task": "own",
        "inputs": json.dumps(names),
        "outputs": json.dumps(outputs),
        "batch_size": "any",
    }
    five = {name: np.repeat(tensor[:1].numpy(), 5, axis=0) for name, tensor in named_inputs(inputs, make()).items()}
    assert len(session.run([outputs[0]], five)[0]) == 5


def test_a_recurrent_network() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden: Tensor = self.lstm(inputs)[0]
            logits: Tensor = self.out(hidden[:, -1])
            return logits

    model = made(Recurrent, numbers(2, 5, 3))
    assert model.batch_size is None
    assert {node.op_type for node in onnx.load_from_string(model.content).graph.node} >= {"LSTM"}


def test_a_batch_size_that_the_code_fixes_is_a_note_and_no_failure() -> None:
    model = made(BatchLoop, numbers(2, 6))
    assert model.batch_size == 1
    about = onnxruntime.InferenceSession(model.content).get_modelmeta().custom_metadata_map
    assert about["batch_size"] == "1"
    assert about["note"] == model.notes[0]
    assert "accepts one example at a time only: the network's code fixes the batch size" in model.notes[0]


def test_random_outputs_are_exported_and_not_compared() -> None:
    model = made(Noisy, numbers(2, 6))
    assert model.difference is None
    assert model.notes == ("not compared with torch's results: the network draws random numbers in evaluation mode",)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Undecided, "torch cannot trace the network: a decision (if, while, bool(), item()) depends on the values"),
        (Bessel, "ONNX cannot express the network: ONNX has no operator for prims.bessel_j0"),
        (lambda: nn.Linear(5, 3), "does not accept the inputs inputs (2, 6): RuntimeError: mat1 and mat2 shapes"),
        (lambda: nn.ModuleDict({"a": nn.Linear(6, 3)}), "NotImplementedError: Module [ModuleDict] is missing the"),
    ],
)
def test_what_cannot_be_exported_names_the_cause(make: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(ExportError) as refusal:
        made(make, numbers(2, 6))
    shown = str(refusal.value)
    assert said in shown
    assert "\n" not in shown
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    causes = [number for number, line in enumerate(lines, 1) if line.endswith("# the line that is the cause")]
    if make in {Undecided, Bessel}:
        assert any(shown.endswith(f" ({__file__}:{number})") for number in causes)


def test_a_model_that_computes_something_else_is_refused_with_figures() -> None:
    with seeded(1):
        network = nn.Linear(6, 3)
    flat = Flat(network, lambda module, inputs: module(inputs), numbers(2, 6), main="logits", taken=("inputs",))
    flat(numbers(2, 6))
    traced = trace(flat, {"inputs": numbers(2, 6)}, any_batch_size=True)
    with torch.no_grad():
        network.bias += 0.5
    _name, run = parity.runner_of(traced)
    with pytest.raises(ExportError, match=r"output logits differs from torch's by up to 0\.5 in 9 of 9 numbers, whose"):
        parity.compare(flat, run, {"inputs": numbers(3, 6)}, traced.outputs)


def test_without_onnxruntime_the_reference_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "find_spec", lambda _name: None)
    model = made(TwoInputs, (numbers(2, 6), numbers(2, 2)))
    assert model.runtime == "onnx.reference"
    assert model.difference is not None
    assert model.difference < 1e-5


def test_orthogonal_weights_are_computed_before_the_export() -> None:
    with seeded(0):
        network = orthogonal(nn.Linear(4, 4))
    made = onnx_of(network, numbers(3, 4), {})
    assert made.difference is not None
    assert made.difference < 1e-5
    assert is_parametrized(network)
