"""Running statistics on the wire: their place in a layout, their digits, their share of a byte budget."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from aggregator.initial_model import read_initial_model
from device_client.model_files import ModelFile, ModelFileError, read_model, write_model
from wire_contract.codec import decode
from wire_contract.compression.choice import encode_as
from wire_contract.compression.rate_control import CompressionTarget, encoded_bytes
from wire_contract.encoding import Float16, Float32, decode_vector, encode_vector
from wire_contract.encoding.statistics import VARIANCE_SHARE_MIN, second_moment_of, to_stored, variance_of
from wire_contract.errors import LayoutError
from wire_contract.layout import Layout, TensorKind, TensorSpec, Vector, digest
from wire_contract.messages import Delta
from wire_contract.publication.deltas import apply_delta, make_delta
from wire_contract.publication.manifest import decode_snapshot, encode_snapshot

LAYERS = 4
CHANNELS = 8


def spec(name: str, kind: TensorKind = "weight", size: int = CHANNELS) -> TensorSpec:
    return TensorSpec(name, (size,), kind=kind)


LAYOUT = Layout(
    (
        spec("weight", size=400),
        *(spec(f"{layer}.running_mean", "mean") for layer in range(LAYERS)),
        *(spec(f"{layer}.running_var", "second_moment") for layer in range(LAYERS)),
    )
)


def vector(*, mean: float = 1.0, variance: float = 1.0, seed: int = 0) -> Vector:
    random = np.random.default_rng(seed)
    count = LAYERS * CHANNELS
    means = (mean * random.uniform(0.5, 1.5, count)).astype(np.float32)
    moments = second_moment_of(means, variance * random.uniform(0.5, 1.5, count))
    return np.concatenate((0.01 * random.standard_normal(400), means, moments)).astype(np.float32)


@pytest.mark.parametrize(
    "tensors",
    [
        (spec("m", "mean"),),
        (spec("s", "second_moment"), spec("m", "mean")),
        (spec("m", "mean"), spec("s", "second_moment"), spec("w")),
        (spec("m", "mean"), spec("s", "second_moment", size=3)),
        (spec("m", "mean"), spec("s", "second_moment"), spec("n", "mean"), spec("t", "second_moment")),
    ],
)
def test_a_layout_has_its_statistics_last_and_in_pairs(tensors: tuple[TensorSpec, ...]) -> None:
    with pytest.raises(LayoutError, match="have to follow the weights, in pairs"):
        Layout(tensors)


def test_a_layout_without_statistics_is_as_ever() -> None:
    plain = Layout((spec("w"), spec("v")))
    assert plain.fingerprint.hex() == "df5de0fb61556756"
    assert (plain.weights_size, plain.channels, plain.pairs, plain.has_statistics) == (16, 0, (), False)
    assert plain.of_weights is plain


@given(st.floats(-1e6, 1e6, width=32), st.floats(2**-20, 2**20, width=32))
def test_a_variance_survives_float32_as_far_as_it_can(mean: float, variance: float) -> None:
    moment = np.float32(second_moment_of(np.float32(mean), variance))
    found = float(variance_of(np.float32(mean), moment))
    assert found == pytest.approx(variance, rel=1e-6, abs=max(mean**2, variance) * 2.0**-19)
    assert found >= VARIANCE_SHARE_MIN * mean**2


@given(st.floats(-(2.0**60), 2.0**60, width=32), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_no_second_moment_gives_a_negative_variance(mean: float, moment: float) -> None:
    found = variance_of(np.float32(mean), np.float32(moment))
    assert np.isfinite(found)
    assert found >= 0


@pytest.mark.parametrize("mean", [0.1, 10.0, 1_000.0])
def test_an_update_keeps_every_variance_within_a_hundredth(mean: float) -> None:
    sent = vector(mean=mean)
    tensors = encode_as("int8", sent, LAYOUT, version=0, as_values=True)
    of_statistics = {type(tensor) for tensor in tensors[1:]}
    assert of_statistics == ({Float32} if mean > 100 else {Float16} if mean < 1 else of_statistics)
    found = decode_vector(tensors, LAYOUT)
    exact = variance_of(*LAYOUT.moments(sent))
    np.testing.assert_allclose(variance_of(*LAYOUT.moments(found)), exact, rtol=0.011)


def test_values_beyond_float16_are_float32() -> None:
    tensors = encode_as("int8", vector(mean=1e4, variance=1e8), LAYOUT, version=0, as_values=True)
    assert {type(tensor) for tensor in tensors[1:]} == {Float32}


@pytest.mark.parametrize("bytes_max", [80, 150, 300, 700])
def test_statistics_take_at_most_half_of_a_budget_and_layers_take_turns(bytes_max: int) -> None:
    sent, target = vector(), CompressionTarget(bytes_max=bytes_max)
    heard = np.zeros(LAYERS, dtype=int)
    for version in range(LAYERS):
        tensors = encode_as(target, sent, LAYOUT, version=version, as_values=True)
        assert encoded_bytes(tensors) <= bytes_max
        found = decode_vector(tensors, LAYOUT)
        assert found[:400].any(), "there is room for weights"
        means, moments = (part.reshape(LAYERS, CHANNELS) for part in LAYOUT.moments(found))
        arrived = moments.any(axis=1)
        assert (arrived == means.any(axis=1)).all(), "both of a layer or none"
        heard += arrived
    if bytes_max > 80:
        assert (heard > 0).all()
    if bytes_max == 700:
        assert (heard == LAYERS).all()


def test_large_statistics_do_not_use_up_the_weights_budget() -> None:
    target = CompressionTarget(bytes_max=700)

    def error(mean: float, variance: float) -> float:
        sent = vector(mean=mean, variance=variance)
        found = decode_vector(encode_as(target, sent, LAYOUT, version=0, as_values=True), LAYOUT)
        return float(np.linalg.norm((found - sent)[:400]))

    assert error(100.0, 1e4) == pytest.approx(error(0.01, 1e-2), rel=0.05)


def test_snapshots_and_deltas_have_statistics_in_float32() -> None:
    first, second = vector(mean=300.0, seed=1), vector(mean=301.0, seed=1)
    _, published = encode_snapshot(first, task="t", version=0, parent=None, layout=LAYOUT, encoding="float16")
    assert published.weights[400:].tobytes() == first[400:].tobytes()
    assert published.weights[:400].tobytes() == first[:400].astype(np.float16).astype(np.float32).tobytes()
    target = CompressionTarget(bytes_max=700)
    held = published
    for _ in range(6):  # what one delta leaves out, the next one has
        payload, expected = make_delta(
            second,
            held,
            encoding="float16",
            encode=lambda difference, layout: encode_as(target, difference, layout, version=0),
            bytes_max=2_000,
        )
        held = apply_delta(held, decode(payload, Delta))
        assert held.digest == expected.digest
        snapshot, _ = encode_snapshot(
            held.weights, task="t", version=held.version, parent=0, layout=LAYOUT, encoding="float16"
        )
        assert decode_snapshot(snapshot).digest == held.digest
    np.testing.assert_array_equal(held.weights[400:], second[400:])


@pytest.mark.parametrize("encoding", ["float16", "int8", "int4"])
def test_no_encoding_of_models_rounds_statistics(encoding: str) -> None:
    sent = vector(mean=50.0)
    found = decode_vector(encode_vector(sent, LAYOUT, encoding), LAYOUT)  # type: ignore[arg-type]
    assert found[400:].tobytes() == sent[400:].tobytes()


# -- files


def model_file(weights: Vector) -> ModelFile:
    return ModelFile(task="t", layout=LAYOUT, weights=weights, role="initial-model")


def test_a_file_holds_variances_for_others_and_comes_back_bit_for_bit(tmp_path: Path) -> None:
    weights = vector(mean=3.0)
    weights[-1] = -7.0  # no variance could say this
    write_model(tmp_path / "m.safetensors", model_file(weights))
    stored, _ = to_stored(LAYOUT, weights)
    assert (stored["0.running_var"] > 0).all()
    np.testing.assert_allclose(stored["0.running_var"], variance_of(*LAYOUT.moments(weights))[:CHANNELS], rtol=1e-6)
    assert read_model(tmp_path / "m.safetensors").weights.tobytes() == weights.tobytes()
    read = read_initial_model(tmp_path / "m.safetensors", task="t")
    assert (read.layout, digest(read.weights)) == (LAYOUT, digest(weights))


def test_a_file_of_another_program_needs_no_second_moments(tmp_path: Path) -> None:
    path, weights = tmp_path / "m.safetensors", vector()
    write_model(path, model_file(weights))
    rows = [
        [one.name, list(one.shape), *(() if one.kind == "weight" else (one.dtype, one.kind))] for one in LAYOUT.tensors
    ]
    tensors = load_file(path)
    save_file(tensors, path, {"task": "t", "layout": json.dumps(rows), "role": "initial-model"})
    np.testing.assert_allclose(read_model(path).weights, weights, rtol=1e-6)
    tensors["1.running_var"] = tensors["1.running_var"] * 2
    _, metadata = to_stored(LAYOUT, weights)
    save_file(tensors, path, {"task": "t", "layout": json.dumps(rows), **metadata})
    with pytest.raises(ModelFileError, match="does not belong to the running variances"):
        read_model(path)
    save_file(tensors, path, {"task": "t", "layout": json.dumps(rows), "second_moments": "AAAA"})
    with pytest.raises(ModelFileError, match="not base64 of 32 float32 numbers"):
        read_model(path)
