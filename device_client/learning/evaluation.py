"""Inference over a whole data set, and the metrics of a classifier."""

import torch
from torch import Tensor, nn

from device_client.task import Examples

_BATCH_SIZE = 512
"""Examples per forward pass: bounds the memory for activations, and is large enough to keep a CPU busy."""


@torch.no_grad()
def logits_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits (example, class) in evaluation mode, computed in batches to bound memory. Restores the model's mode."""
    was_training = model.training
    model.eval()
    logits = torch.cat([model(batch) for batch in torch.split(inputs, _BATCH_SIZE)])
    model.train(was_training)
    return logits


def evaluate(model: nn.Module, examples: Examples, classes: tuple[str, ...]) -> dict[str, float]:
    """Metrics by name: `accuracy`, `macro_f1`, `loss` (nats), and `recall_<class>` for each class among the labels.

    Macro F1 is the mean over the classes that occur among the labels or the predictions.
    """
    logits = logits_of(model, examples.inputs)  # (example, class)
    predicted, labels = logits.argmax(dim=1), examples.labels
    flat = torch.bincount(labels * len(classes) + predicted, minlength=len(classes) ** 2)
    confusion = flat.reshape(len(classes), len(classes)).double()  # (true, predicted)
    correct, actual, claimed = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
    occurs = (actual + claimed) > 0
    metrics = {
        "accuracy": float(correct.sum() / confusion.sum()),
        "macro_f1": float((2 * correct / (actual + claimed))[occurs].mean()),
        "loss": float(nn.functional.cross_entropy(logits, labels)),
    }
    for index, name in enumerate(classes):
        if actual[index] > 0:
            metrics[f"recall_{name}"] = float(correct[index] / actual[index])
    return metrics
