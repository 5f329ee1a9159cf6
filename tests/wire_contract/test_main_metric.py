"""The main metric: what is a share, what is better, what can be shown, and what older programs see of it."""

import math

import msgspec
import pytest

from wire_contract.codec import decode, encode
from wire_contract.errors import DecodeError
from wire_contract.limits import METRIC_MAX
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.messages import Evaluation

MAE = MainMetric("mae", higher_is_better=False)


def evaluation(declared: MainMetric | msgspec.UnsetType, **metrics: float) -> Evaluation:
    return Evaluation(
        task="t", device="evaluator", version=1, digest=bytes(32), samples=1, metrics=metrics, declared=declared
    )


@pytest.mark.parametrize(
    ("name", "is_share"),
    [
        ("accuracy", True),
        ("Macro F1", True),
        ("recall_walking", True),
        ("mean IoU", True),
        ("mae", False),
        ("R2", False),
        ("perplexity", False),
        ("inaccuracy", False),
        ("", False),
    ],
)
def test_shares_are_known_by_name(name: str, is_share: bool) -> None:
    assert MainMetric(name, higher_is_better=True).is_share == is_share


def test_a_share_out_of_its_range_is_shown_as_a_number() -> None:
    assert MainMetric("f1", higher_is_better=True).is_share_at(0.0, 1.0)
    assert not MainMetric("f1", higher_is_better=True).is_share_at(0.5, 88.0)


def test_the_best_by_direction() -> None:
    values = [0.2, 0.1, 0.3]
    assert (ACCURACY.best(values), ACCURACY.worst(values)) == (0.3, 0.1)
    assert (MAE.best(values), MAE.worst(values)) == (0.1, 0.3)


@pytest.mark.parametrize(
    ("main", "value", "shown"),
    [
        (MAE, -0.5, -0.5),
        (MAE, METRIC_MAX, METRIC_MAX),
        (MAE, 1.1 * METRIC_MAX, None),
        (MAE, math.nan, None),
        (MAE, math.inf, None),
        (ACCURACY, 1.0, 1.0),
        (ACCURACY, 1.1, None),
        (ACCURACY, -0.1, None),
    ],
)
def test_what_can_be_shown(main: MainMetric, value: float, shown: float | None) -> None:
    assert main.value_in({"loss": 0.0, main.name: value}) == shown
    assert main.value_in({"loss": 0.0}) is None


def test_an_evaluation_by_accuracy_has_the_bytes_of_the_first_release() -> None:
    plain = evaluation(msgspec.UNSET, accuracy=0.5)
    assert encode(evaluation(ACCURACY, accuracy=0.5)) == encode(plain)
    assert "mm" not in msgspec.to_builtins(plain)
    assert (plain.main, plain.main_value) == (ACCURACY, 0.5)


def test_another_main_metric_travels() -> None:
    told = decode(encode(evaluation(MAE, mae=0.25, accuracy=0.5)), Evaluation)
    assert (told.main, told.main_value) == (MAE, 0.25)


@pytest.mark.parametrize("name", ["", "m" * 65])
def test_a_name_out_of_its_limits_is_refused(name: str) -> None:
    with pytest.raises(DecodeError, match="mm"):
        decode(encode(evaluation(MainMetric(name, higher_is_better=True), mae=0.25)), Evaluation)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(DecodeError, match="not finite"):
        decode(encode(evaluation(MAE, mae=value)), Evaluation)
