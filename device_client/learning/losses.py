"""The losses of both methods: distillation from a frozen teacher (AsyncFedKD), and mutual distillation (FedKD).

**AsyncFedKD**, after Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531,
section 2. The teacher is frozen; for classes:

    L = (1 - alpha) · task(z_s, y) + alpha · T² · KL( softmax(z_t / T) ‖ softmax(z_s / T) )

The soft targets are the teacher's, so the divergence is taken from the teacher to the student; its gradient equals that
of the paper's cross-entropy with soft targets. The factor T² keeps that gradient on the scale of the hard labels'
gradient when T changes.

Other objectives put their own `distillation` in the place of T² · KL (`device_client/task/kinds.py`), in both methods.

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

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from device_client.task import Batch, Distillation, Loss, Objective, Recipe, TaskError
from device_client.task.batches import detached
from device_client.task.losses import cross_entropy, divergence, focal, loss_of_labels

__all__ = [
    "MutualLosses",
    "cross_entropy",
    "distillation_loss",
    "distillation_of",
    "divergence",
    "focal",
    "loss_of_labels",
    "mutual_losses",
    "task_loss_of",
    "teacher_loss_of",
]

TASK_LOSS_SUM_MIN = 1e-2
"""Nats. It limits the weight of the mutual terms to 100. With label smoothing the sum stays well above it."""


def of_classes(student_logits: Tensor, teacher_logits: Tensor, _labels: Batch, temperature: float) -> Tensor:
    """Distillation between logits (batch, class) themselves; `batch` is then the labels (batch,)."""
    return divergence(student_logits, teacher_logits, temperature=temperature)


def task_loss_of(objective: Objective, recipe: Recipe) -> Loss:
    """The student's task loss."""
    return _labelled(
        objective, recipe.task_loss, focal_gamma=recipe.focal_gamma, label_smoothing=recipe.label_smoothing
    )


def teacher_loss_of(objective: Objective, recipe: Recipe) -> Loss:
    """The loss of a teacher's pre-training."""
    smoothing = recipe.teacher_label_smoothing
    return _labelled(objective, "cross_entropy", focal_gamma=recipe.focal_gamma, label_smoothing=smoothing)


def _labelled(objective: Objective, name: str, *, focal_gamma: float, label_smoothing: float) -> Loss:
    if objective.with_label_loss is None:
        return objective.loss
    return objective.with_label_loss(loss_of_labels(name, focal_gamma=focal_gamma, label_smoothing=label_smoothing))


def distillation_of(objective: Objective) -> Distillation:
    """How the objective learns from a teacher.

    Raises:
        TaskError: it does not.
    """
    if objective.distillation is None:
        raise TaskError(
            f"the objective ({objective.kind}) has no distillation, which a teacher needs; give "
            "distillation=a function of student outputs, teacher outputs, batch and temperature, or set alpha=0"
        )
    return objective.distillation


def distillation_loss(
    student: Any,
    teacher: Any,
    batch: Batch,
    *,
    temperature: float,
    alpha: float,
    task_loss: Loss = cross_entropy,
    distillation: Distillation | None = of_classes,
) -> Tensor:
    """The total loss of AsyncFedKD, a scalar.

    Args:
        student: its outputs.
        teacher: its outputs; None: there is no teacher, and the loss is the task loss alone.
        batch: with the targets.
        temperature: T > 0.
        alpha: weight of the distillation, 0 to 1.
        task_loss: of the student's outputs and the batch.
        distillation: see `Objective`; None only without a teacher.
    """
    hard = task_loss(student, batch)
    if teacher is None or alpha == 0.0:
        return hard
    assert distillation is not None
    return (1.0 - alpha) * hard + alpha * distillation(student, detached(teacher), batch, temperature)


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
    student_outputs: Any,
    teacher_outputs: Any,
    batch: Batch,
    *,
    temperature: float = 1.0,
    task_loss: Loss = cross_entropy,
    distillation: Distillation = of_classes,
    hidden: tuple[Tensor, Tensor] | None = None,
) -> MutualLosses:
    """The losses of both networks on one batch; the module's docstring says where gradients go.

    Args:
        student_outputs: of the student.
        teacher_outputs: of the local teacher.
        batch: with the targets.
        temperature: T > 0 of both divergences; the paper's is 1.
        task_loss: of outputs and batch, of both networks.
        distillation: see `Objective`; in both directions.
        hidden: W_h·H_s and H_t, both (batch, teacher hidden); None: no hidden loss.
    """
    student_task, teacher_task = task_loss(student_outputs, batch), task_loss(teacher_outputs, batch)
    weight = 1.0 / (student_task + teacher_task).detach().clamp(min=TASK_LOSS_SUM_MIN)
    student = student_task + weight * distillation(student_outputs, detached(teacher_outputs), batch, temperature)
    teacher = teacher_task + weight * distillation(teacher_outputs, detached(student_outputs), batch, temperature)
    if hidden is not None:
        of_student, of_teacher = hidden
        student = student + weight * functional.mse_loss(of_student, of_teacher.detach())
        teacher = teacher + weight * functional.mse_loss(of_teacher, of_student.detach())
    return MutualLosses(student=student, teacher=teacher, student_task=student_task, teacher_task=teacher_task)
