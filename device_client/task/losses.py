"""Losses of class labels, and what distillation compares: the teacher's outputs with the student's.

Logits have the classes along dimension 1: (batch, class), or (batch, class, …) with one decision at each position.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

LabelLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (batch, class, …) and labels int64 (batch, …) to the mean loss, a scalar."""


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats; logits (batch, class), labels int64 (batch,)."""
    return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def focal(logits: Tensor, labels: Tensor, *, gamma: float, label_smoothing: float = 0.0) -> Tensor:
    """Mean focal loss: (1 - p)^gamma times the cross-entropy, where p is the probability of the true class.

    Examples that are already classified well count less, which helps rare and hard classes; gamma = 0 gives the
    cross-entropy.
    Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002, equation 4 (no class weights).
    Logits (batch, class), labels int64 (batch,).
    """
    each = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")  # (batch,)
    true_log_probability = functional.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)  # (batch,)
    return ((1.0 - true_log_probability.exp()).clamp(min=0.0) ** gamma * each).mean()


def loss_of_labels(name: str, *, focal_gamma: float, label_smoothing: float) -> LabelLoss:
    """The loss called `name`, with its parameters bound."""
    losses: dict[str, LabelLoss] = {
        "cross_entropy": partial(cross_entropy, label_smoothing=label_smoothing),
        "focal": partial(focal, gamma=focal_gamma, label_smoothing=label_smoothing),
    }
    return losses[name]


def divergence(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) at temperature T, the mean over the batch; both logits (batch, class).

    Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.
    """
    student = functional.log_softmax(student_logits / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, log_target=True, reduction="batchmean")


def binary_divergence(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """`divergence` of independent yes-or-no decisions, the mean over all of them; both logits (batch, label).

    The cross-entropy of the softened probabilities less the teacher's entropy, which has no gradient: 0 where both
    agree.
    """
    student, teacher = student_logits / temperature, teacher_logits / temperature
    soft = torch.sigmoid(teacher)
    cross = functional.binary_cross_entropy_with_logits(student, soft)
    entropy = functional.binary_cross_entropy_with_logits(teacher, soft)
    return temperature**2 * (cross - entropy)
