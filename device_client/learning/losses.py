"""The losses: task losses, distillation from a frozen teacher (AsyncFedKD), and mutual distillation (FedKD).

**AsyncFedKD**, after Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531,
section 2. The teacher is frozen:

    L = (1 - alpha) · task(z_s, y) + alpha · T² · KL( softmax(z_t / T) ‖ softmax(z_s / T) )

The soft targets are the teacher's, so the divergence is taken from the teacher to the student; its gradient equals that
of the paper's cross-entropy with soft targets. The factor T² keeps that gradient on the scale of the hard labels'
gradient when T changes.

**FedKD**, after Wu et al. 2022, "Communication-efficient federated learning via knowledge distillation", Nature
Communications 13, 2032, doi:10.1038/s41467-022-29763-x: a local teacher (y_t, hidden state H_t) and the student (y_s,
H_s) learn from the same batch. With the task losses L_t and L_s,

    teacher: L_t + KL(y_s ‖ y_t) / (L_t + L_s) + MSE(H_t, W_h·H_s) / (L_t + L_s)
    student: L_s + KL(y_t ‖ y_s) / (L_t + L_s) + MSE(H_t, W_h·H_s) / (L_t + L_s)

The larger the task losses, the weaker the mutual terms. What the paper leaves open is decided here:

    targets      are detached: each network is trained towards the other one's current output. In the teacher's terms
                 y_s and W_h·H_s are constants, so they train H_t and y_t only; in the student's, y_t and H_t are
                 constants, so they train H_s, W_h and y_s. Both totals can therefore be added, with one backward pass.
    denominator  is detached: it is a weight. A gradient through 1 / (L_t + L_s) would reward a larger task loss.
    its floor    is TASK_LOSS_SUM_MIN: when both networks are confident and correct the sum falls to exactly 0, long
                 before the hidden states agree, and one such batch would dominate the optimiser's moments.

(The authors' program, github.com/wuch15/FedKD, detaches nothing and has no W_h.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.nn import functional

from device_client.task import Recipe

TASK_LOSS_SUM_MIN = 1e-2
"""Nats. It limits the weight of the mutual terms to 100. With label smoothing the sum stays well above it."""

LossOfLabels = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (batch, class) and labels int64 (batch,) to the mean loss, a scalar."""


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


def loss_of_labels(name: str, *, focal_gamma: float, label_smoothing: float) -> LossOfLabels:
    """The task loss called `name`, with its parameters bound."""
    losses: dict[str, LossOfLabels] = {
        "cross_entropy": partial(cross_entropy, label_smoothing=label_smoothing),
        "focal": partial(focal, gamma=focal_gamma, label_smoothing=label_smoothing),
    }
    return losses[name]


def task_loss_of(recipe: Recipe) -> LossOfLabels:
    """The student's task loss."""
    return loss_of_labels(recipe.task_loss, focal_gamma=recipe.focal_gamma, label_smoothing=recipe.label_smoothing)


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
    task_loss: LossOfLabels = cross_entropy,
) -> Tensor:
    """The total loss of AsyncFedKD, a scalar.

    Args:
        student_logits: (batch, class).
        teacher_logits: (batch, class), detached from gradients; None: there is no teacher, and the loss is the task
            loss alone.
        labels: int64 (batch,).
        temperature: T > 0.
        alpha: weight of the distillation, 0 to 1.
        task_loss: the loss on the labels.
    """
    hard = task_loss(student_logits, labels)
    if teacher_logits is None or alpha == 0.0:
        return hard
    return (1.0 - alpha) * hard + alpha * divergence(student_logits, teacher_logits.detach(), temperature=temperature)


@dataclass(frozen=True, kw_only=True)
class MutualLosses:
    """The losses of FedKD on one batch, all scalars."""

    student: Tensor
    """Total loss of the student; its gradient reaches the student and W_h, not the teacher."""
    teacher: Tensor
    """Total loss of the teacher; its gradient reaches only the teacher."""
    student_task: Tensor
    """L_s."""
    teacher_task: Tensor
    """L_t."""


def mutual_losses(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    task_loss: LossOfLabels = cross_entropy,
    hidden: tuple[Tensor, Tensor] | None = None,
) -> MutualLosses:
    """The losses of both networks on one batch; the module's docstring says where gradients go.

    Args:
        student_logits: (batch, class).
        teacher_logits: (batch, class).
        labels: int64 (batch,).
        temperature: T > 0 of both divergences; the paper's is 1.
        task_loss: the loss on the labels, of both networks.
        hidden: W_h·H_s and H_t, both (batch, teacher hidden); None: no hidden loss.
    """
    student_task, teacher_task = task_loss(student_logits, labels), task_loss(teacher_logits, labels)
    weight = 1.0 / (student_task + teacher_task).detach().clamp(min=TASK_LOSS_SUM_MIN)
    student = student_task + weight * divergence(student_logits, teacher_logits.detach(), temperature=temperature)
    teacher = teacher_task + weight * divergence(teacher_logits, student_logits.detach(), temperature=temperature)
    if hidden is not None:
        of_student, of_teacher = hidden
        student = student + weight * functional.mse_loss(of_student, of_teacher.detach())
        teacher = teacher + weight * functional.mse_loss(of_teacher, of_student.detach())
    return MutualLosses(student=student, teacher=teacher, student_task=student_task, teacher_task=teacher_task)
