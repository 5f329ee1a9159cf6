"""The losses of FedKD against formulas worked out by hand, against finite differences, and at their limits."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from device_client.learning.losses import (
    TASK_LOSS_SUM_MIN,
    MutualLosses,
    cross_entropy,
    divergence,
    loss_of_labels,
    mutual_losses,
)

Array = npt.NDArray[np.float64]
RANDOM = np.random.default_rng(0)
BATCH, CLASSES, STUDENT_HIDDEN, TEACHER_HIDDEN = 4, 3, 2, 5
Z_S, Z_T = RANDOM.normal(size=(2, BATCH, CLASSES))
H_S, H_T = RANDOM.normal(size=(BATCH, STUDENT_HIDDEN)), RANDOM.normal(size=(BATCH, TEACHER_HIDDEN))
W_H = RANDOM.normal(size=(TEACHER_HIDDEN, STUDENT_HIDDEN))
LABELS = np.array([0, 2, 1, 1])


def softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def task(logits: Array) -> float:
    return float(-np.log(softmax(logits)[np.arange(BATCH), LABELS]).mean())


def kl(target: Array, moving: Array) -> float:
    """KL(target ‖ moving) of two sets of logits, mean over the batch."""
    p, q = softmax(target), softmax(moving)
    return float((p * np.log(p / q)).sum(axis=1).mean())


WEIGHT = 1 / (task(Z_S) + task(Z_T))
ONE_HOT = np.eye(CLASSES)[LABELS]


class Leaves:
    """The constants above as float64 tensors that take gradients, and the losses of them."""

    def __init__(self) -> None:
        self.z_s, self.z_t, self.h_s, self.h_t, self.w_h = (
            torch.tensor(value, requires_grad=True) for value in (Z_S, Z_T, H_S, H_T, W_H)
        )
        self.losses: MutualLosses = mutual_losses(
            self.z_s, self.z_t, torch.tensor(LABELS), hidden=(self.h_s @ self.w_h.T, self.h_t)
        )

    def gradients(self, loss: Tensor) -> list[Tensor | None]:
        """Of z_s, z_t, h_s, h_t, w_h."""
        leaves = [self.z_s, self.z_t, self.h_s, self.h_t, self.w_h]
        return list(torch.autograd.grad(loss, leaves, allow_unused=True))


def test_the_totals_are_those_of_the_paper() -> None:
    losses, mse = Leaves().losses, float(((H_S @ W_H.T - H_T) ** 2).mean())
    assert losses.student_task.item() == pytest.approx(task(Z_S))
    assert losses.teacher_task.item() == pytest.approx(task(Z_T))
    assert losses.student.item() == pytest.approx(task(Z_S) + WEIGHT * (kl(Z_T, Z_S) + mse))
    assert losses.teacher.item() == pytest.approx(task(Z_T) + WEIGHT * (kl(Z_S, Z_T) + mse))


def test_the_gradients_of_the_students_loss_are_those_worked_out_by_hand() -> None:
    leaves = Leaves()
    z_s, z_t, h_s, h_t, w_h = leaves.gradients(leaves.losses.student)
    apart = H_S @ W_H.T - H_T  # (batch, teacher hidden)
    slope = WEIGHT * 2 / apart.size * apart
    assert z_t is None, "what the teacher says is a target"
    assert h_t is None, "and so is what it sees"
    for found, expected in (
        (z_s, (softmax(Z_S) - ONE_HOT + WEIGHT * (softmax(Z_S) - softmax(Z_T))) / BATCH),
        (h_s, slope @ W_H),
        (w_h, slope.T @ H_S),
    ):
        assert found is not None
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_the_gradients_of_the_teachers_loss_are_those_worked_out_by_hand() -> None:
    leaves = Leaves()
    z_s, z_t, h_s, h_t, w_h = leaves.gradients(leaves.losses.teacher)
    assert [z_s, h_s, w_h] == [None, None, None], "the student and W_h are not taught by the teacher's loss"
    for found, expected in (
        (z_t, (softmax(Z_T) - ONE_HOT + WEIGHT * (softmax(Z_T) - softmax(Z_S))) / BATCH),
        (h_t, WEIGHT * 2 / H_T.size * (H_T - H_S @ W_H.T)),
    ):
        assert found is not None
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def differences(function: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    """The gradient by central differences."""
    slopes = np.empty_like(at)
    for index in np.ndindex(at.shape):
        ahead, behind = at.copy(), at.copy()
        ahead[index] += step
        behind[index] -= step
        slopes[index] = (function(ahead) - function(behind)) / (2 * step)
    return slopes


def test_the_gradients_are_the_slopes_with_targets_and_denominator_held() -> None:
    leaves = Leaves()
    z_s, _, h_s, _, w_h = leaves.gradients(leaves.losses.student)
    _, z_t, _, h_t, _ = leaves.gradients(leaves.losses.teacher)

    def mse(h_s: Array, w_h: Array, h_t: Array) -> float:
        return WEIGHT * float(((h_s @ w_h.T - h_t) ** 2).mean())

    for found, function, at in (
        (z_s, lambda z: task(z) + WEIGHT * kl(Z_T, z), Z_S),
        (z_t, lambda z: task(z) + WEIGHT * kl(Z_S, z), Z_T),
        (h_s, lambda h: mse(h, W_H, H_T), H_S),
        (w_h, lambda w: mse(H_S, w, H_T), W_H),
        (h_t, lambda h: mse(H_S, W_H, h), H_T),
    ):
        assert found is not None
        np.testing.assert_allclose(found.numpy(), differences(function, at), rtol=1e-6, atol=1e-9)


def test_a_slope_through_the_denominator_would_be_another_and_reward_erring() -> None:
    leaves = Leaves()
    held = leaves.gradients(leaves.losses.student)[0]
    assert held is not None
    followed = differences(lambda z: task(z) + kl(Z_T, z) / (task(z) + task(Z_T)), Z_S)
    task_slope = differences(task, Z_S)
    # Along the task loss's own slope the denominator pulls backwards, by KL/(L_t + L_s)² of it.
    pulled_back = WEIGHT**2 * kl(Z_T, Z_S) * task_slope
    np.testing.assert_allclose(held.numpy() - followed, pulled_back, rtol=1e-5, atol=1e-9)
    assert np.abs(pulled_back).max() > 1e-3, "far above the tolerance"


def test_the_more_both_err_the_less_they_listen_to_one_another() -> None:
    student, teacher = torch.tensor([[3.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    shares = []
    for label in (0, 1, 2):  # right, wrong, very wrong
        labels = torch.tensor([label])
        losses = mutual_losses(student, teacher, labels)
        distilled = float(losses.student - losses.student_task)
        shares.append(distilled)
        both = float(cross_entropy(student, labels) + cross_entropy(teacher, labels))
        assert distilled == pytest.approx(float(divergence(student, teacher, temperature=1.0)) / both, rel=1e-4)
    assert shares[0] > 5 * shares[1] > 5 * shares[2] / 2


def test_without_hidden_states_the_rest_is_the_same() -> None:
    student, teacher, labels = torch.tensor(Z_S), torch.tensor(Z_T), torch.tensor(LABELS)
    alike = torch.ones(BATCH, 7, dtype=torch.float64)
    without = mutual_losses(student, teacher, labels)
    agreeing = mutual_losses(student, teacher, labels, hidden=(alike, alike))
    assert float(without.student) == float(agreeing.student)
    assert float(without.teacher) == float(agreeing.teacher)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("size", [1.0, 1e2, 1e4, 1e15])
def test_extreme_logits_give_finite_losses_and_slopes(name: str, label_smoothing: float, size: float) -> None:
    task_loss = loss_of_labels(name, focal_gamma=2.0, label_smoothing=label_smoothing)
    sure = torch.eye(3) * 2 * size - size
    for student_turn in range(3):
        for teacher_turn in range(3):
            student, teacher = (sure.roll(turn, 1).requires_grad_() for turn in (student_turn, teacher_turn))
            hidden = (student * 2, teacher + 1)
            losses = mutual_losses(student, teacher, torch.arange(3), task_loss=task_loss, hidden=hidden)
            (losses.student + losses.teacher).backward()  # type: ignore[no-untyped-call]
            for value in (losses.student, losses.teacher, student.grad, teacher.grad):
                assert value is not None
                assert bool(torch.isfinite(value).all())


def test_where_both_are_sure_and_right_the_weight_stays_bounded() -> None:
    sure = torch.eye(3) * 200
    losses = mutual_losses(sure, sure, torch.arange(3), hidden=(torch.zeros(3, 4), torch.ones(3, 4)))
    assert float(losses.student_task) == 0.0
    assert float(losses.student) == pytest.approx(1 / TASK_LOSS_SUM_MIN)


@given(data=st.data(), rows=st.integers(1, 4))
def test_distillation_only_ever_adds_and_nothing_where_both_agree(data: st.DataObject, rows: int) -> None:
    row = st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3)
    student, teacher = (torch.tensor(data.draw(st.lists(row, min_size=rows, max_size=rows))) for _ in range(2))
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows)))
    losses = mutual_losses(student, teacher, labels)
    assert float(losses.student) >= float(losses.student_task) - 1e-3
    assert float(losses.teacher) >= float(losses.teacher_task) - 1e-3
    agreeing = mutual_losses(student, student + 1.0, labels)
    assert float(agreeing.student - agreeing.student_task) == pytest.approx(0.0, abs=1e-2)


def test_the_temperature_is_that_of_both_ways() -> None:
    student, teacher = torch.tensor(Z_S), torch.tensor(Z_T)
    warm = mutual_losses(student, teacher, torch.tensor(LABELS), temperature=3.0)
    for total, hard, moving, target in (
        (warm.student, warm.student_task, student, teacher),
        (warm.teacher, warm.teacher_task, teacher, student),
    ):
        expected = WEIGHT * float(divergence(moving, target, temperature=3.0))
        assert float(total - hard) == pytest.approx(expected)
