"""The losses against values worked out by hand and against their limits."""

import math

import pytest
import torch
from torch import Tensor, nn

from device_client.learning.losses import cross_entropy, distillation_loss, divergence, focal, loss_of_labels

STUDENT = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 0.3]])
TEACHER = torch.tensor([[1.0, 1.5, -0.5], [-1.0, 2.0, 0.0]])
LABELS = torch.tensor([0, 1])


def by_hand(temperature: float) -> float:
    """T² · mean over the batch of Σ_c p_t (log p_t - log p_s), in plain Python."""
    total = 0.0
    for student, teacher in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        s, t = ([math.exp(z / temperature) for z in row] for row in (student, teacher))
        p_s, p_t = [z / sum(s) for z in s], [z / sum(t) for z in t]
        total += sum(b * (math.log(b) - math.log(a)) for a, b in zip(p_s, p_t, strict=True))
    return temperature**2 * total / len(STUDENT)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_divergence_is_the_teacher_to_student_kl(temperature: float) -> None:
    assert float(divergence(STUDENT, TEACHER, temperature=temperature)) == pytest.approx(by_hand(temperature), rel=1e-5)


def test_divergence_of_equal_logits_is_zero_and_else_positive() -> None:
    assert float(divergence(STUDENT, STUDENT + 3.0, temperature=2.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(divergence(STUDENT, TEACHER, temperature=2.0)) > 0.01


def test_alpha_shares_out_the_two_losses() -> None:
    hard, soft = float(cross_entropy(STUDENT, LABELS)), by_hand(2.0)
    for alpha in (0.0, 0.3, 1.0):
        total = distillation_loss(STUDENT, TEACHER, LABELS, temperature=2.0, alpha=alpha)
        assert float(total) == pytest.approx((1 - alpha) * hard + alpha * soft, rel=1e-5)


def test_without_a_teacher_the_labels_count_in_full() -> None:
    total = distillation_loss(STUDENT, None, LABELS, temperature=2.0, alpha=0.9)
    assert torch.equal(total, cross_entropy(STUDENT, LABELS))


def test_the_soft_gradient_keeps_its_size_when_the_temperature_changes() -> None:
    def gradient(temperature: float) -> Tensor:
        logits = STUDENT.clone().requires_grad_()
        divergence(logits, TEACHER, temperature=temperature).backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        return logits.grad

    # Hinton: at high T the gradient tends to (z_s - z_t)/classes, centred, whatever T is; without T² it would vanish.
    assert float(gradient(20.0).norm() / gradient(40.0).norm()) == pytest.approx(1.0, abs=0.05)


def test_nothing_flows_back_into_the_teacher() -> None:
    teacher = nn.Linear(4, 3)
    logits = STUDENT.clone().requires_grad_()
    distillation_loss(logits, teacher(torch.ones(2, 4)), LABELS, temperature=2.0, alpha=0.5).backward()  # type: ignore[no-untyped-call]
    assert teacher.weight.grad is None
    assert logits.grad is not None


def test_focal_loss_is_cross_entropy_at_gamma_zero_and_spares_what_is_right() -> None:
    assert float(focal(STUDENT, LABELS, gamma=0.0)) == pytest.approx(float(cross_entropy(STUDENT, LABELS)))
    sure, wrong = torch.tensor([[6.0, 0.0]]), torch.tensor([[0.0, 6.0]])
    label = torch.tensor([0])
    p = 1 / (1 + math.exp(-6.0))
    assert float(focal(sure, label, gamma=2.0)) == pytest.approx((1 - p) ** 2 * -math.log(p), rel=1e-3)
    ratio = float(focal(wrong, label, gamma=2.0)) / float(cross_entropy(wrong, label))
    assert ratio == pytest.approx(p**2, rel=1e-4)


def test_losses_by_name_carry_their_settings() -> None:
    smooth = loss_of_labels("cross_entropy", focal_gamma=2.0, label_smoothing=0.1)
    assert torch.equal(smooth(STUDENT, LABELS), cross_entropy(STUDENT, LABELS, label_smoothing=0.1))
    hard = loss_of_labels("focal", focal_gamma=3.0, label_smoothing=0.0)
    assert torch.equal(hard(STUDENT, LABELS), focal(STUDENT, LABELS, gamma=3.0))
