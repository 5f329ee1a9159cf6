"""Losses by which a student learns from labels, from a frozen teacher and from the model that everybody shares.

Total loss of AsyncFedKD, after Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network",
arXiv:1503.02531, section 2:

    L = (1 - alpha) · task(z_s, y) + alpha · T² · KL( softmax(z_t / T) ‖ softmax(z_s / T) )

With an anchor > 0, that share of the distillation comes from the published model b that the round started from
(FedGKD: Yao et al. 2021, "Local-Global Knowledge Distillation in Heterogeneous Federated Learning with Non-IID Data",
arXiv:2107.00051, with its last global model only). Devices with unlike data then drift apart less between versions:

    L = (1 - alpha) · task + alpha · T² · ( (1 - anchor) · KL(t ‖ s) + anchor · KL(b ‖ s) )

Where there is no teacher, or no base, its share goes to the task loss and the other's stays as it is.

The soft targets are the teacher's, so the divergence is taken from the teacher to the student: its gradient is the
one of the paper's cross-entropy with soft targets. T² keeps that gradient as large as the one of the hard labels
when T is changed.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional

LossOfLabels = Callable[[Tensor, Tensor], Tensor]
"""Logits (batch, class) and labels int64 (batch,) to the mean loss, a scalar."""


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats; logits (batch, class), labels int64 (batch,)."""
    return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def focal(logits: Tensor, labels: Tensor, *, gamma: float, label_smoothing: float = 0.0) -> Tensor:
    """Mean focal loss: (1 - p)^gamma times the cross-entropy, where p is the probability of the true class.

    Examples that are already right count less, which helps rare and hard classes; gamma = 0 is the cross-entropy.
    Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002, equation 4 (no class weights).
    Logits (batch, class), labels int64 (batch,).
    """
    each = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")  # (batch,)
    true_log_probability = functional.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)  # (batch,)
    return ((1.0 - true_log_probability.exp()).clamp(min=0.0) ** gamma * each).mean()


def loss_of_labels(name: str, *, focal_gamma: float, label_smoothing: float) -> LossOfLabels:
    """The task loss `name`, with its settings filled in."""
    losses: dict[str, LossOfLabels] = {
        "cross_entropy": partial(cross_entropy, label_smoothing=label_smoothing),
        "focal": partial(focal, gamma=focal_gamma, label_smoothing=label_smoothing),
    }
    return losses[name]


def divergence(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) at temperature T, the mean over the batch; both logits (batch, class)."""
    student = functional.log_softmax(student_logits / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, log_target=True, reduction="batchmean")


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    base_logits: Tensor | None = None,
    anchor: float = 0.0,
    task_loss: LossOfLabels = cross_entropy,
) -> Tensor:
    """The total loss of the module's head, a scalar.

    Args:
        student_logits: (batch, class).
        teacher_logits: (batch, class), not followed by gradients; None when there is no teacher.
        labels: int64 (batch,).
        temperature: T > 0.
        alpha: share of the distillation, 0 to 1.
        base_logits: (batch, class) of the published model, not followed by gradients; None when there is none.
        anchor: share of the distillation that comes from the base, 0 to 1.
        task_loss: what the labels say.
    """
    from_base = alpha * anchor if base_logits is not None else 0.0
    from_teacher = alpha * (1.0 - anchor) if teacher_logits is not None else 0.0
    loss = (1.0 - from_base - from_teacher) * task_loss(student_logits, labels)
    for share, soft_logits in ((from_teacher, teacher_logits), (from_base, base_logits)):
        if share > 0.0 and soft_logits is not None:
            loss = loss + share * divergence(student_logits, soft_logits.detach(), temperature=temperature)
    return loss
