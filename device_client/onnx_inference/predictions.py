"""What a model predicts, for people and programs: one JSON object for each example, or one line of CSV."""

import csv
import json
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import numpy as np

from device_client.onnx_inference.exported_model import Array, ExportedModel, Metadata, OnnxModelError
from device_client.onnx_inference.metrics import log_softmax

Prediction = dict[str, Any]
_CLASS_DIMENSION: Mapping[str, int] = {"per_pixel": 0, "per_token": -1}
"""Of the logits of one example."""


def predictions(model: ExportedModel, inputs: Mapping[str, Array]) -> Iterator[Prediction]:
    """The predictions, example by example.

    classification   `class` and `probabilities` by class
    multi_label      `labels` with a probability of at least 0.5, and `probabilities` by label
    per_pixel, per_token   `classes`: the likeliest class at each position, by name or else by number
    others           `outputs`: numbers, by label where each has one; further outputs by their names

    Raises:
        OnnxModelError: an output does not fit the labels.
    """
    for _chosen, outputs in model.passes(inputs):
        main = model.outputs[0]
        rest = {name: values for name, values in outputs.items() if name != main}
        for index, row in enumerate(outputs[main]):
            answer = _prediction(row, model.metadata)
            if "outputs" in answer:
                answer |= {name: values[index].tolist() for name, values in rest.items() if len(values) > index}
            yield answer


def _prediction(row: Array, known: Metadata) -> Prediction:
    labels, kind = known.labels, known.objective
    if kind in _CLASS_DIMENSION:
        likeliest = row.argmax(axis=_CLASS_DIMENSION[kind])
        return {"classes": np.asarray(labels)[likeliest].tolist() if labels else likeliest.tolist()}
    if kind in {"classification", "multi_label"}:
        if row.shape != (len(labels),):
            raise OnnxModelError(f"the model's output has shape {row.shape} for {len(labels)} labels; export it again")
        if kind == "classification":
            shares = np.exp(log_softmax(row)).tolist()
            return {
                "class": labels[int(row.argmax())],
                "probabilities": dict(zip(labels, shares, strict=True)),
            }
        shares = np.exp(-np.logaddexp(0, -row.astype(np.float64))).tolist()
        chosen = [label for label, logit in zip(labels, row.tolist(), strict=True) if logit >= 0]
        return {"labels": chosen, "probabilities": dict(zip(labels, shares, strict=True))}
    if labels and row.shape == (len(labels),):
        return {"outputs": dict(zip(labels, row.tolist(), strict=True))}
    return {"outputs": row.tolist()}


def write_json_lines(rows: Iterator[Prediction], out: TextIO) -> int:
    """Returns the number of examples."""
    count = 0
    for row in rows:
        out.write(json.dumps({"example": count, **row}, ensure_ascii=False) + "\n")
        count += 1
    return count


def write_csv(rows: Iterator[Prediction], out: TextIO) -> int:
    """Columns: example, then class or labels, then the probabilities or numbers by name. Returns the number of
    examples.

    Raises:
        OnnxModelError: a prediction has more than one dimension.
    """
    writer, count = csv.writer(out), 0
    for row in rows:
        cells = _cells(row)
        if count == 0:
            writer.writerow(["example", *cells])
        writer.writerow([count, *cells.values()])
        count += 1
    return count


def _cells(row: Prediction) -> dict[str, object]:
    cells: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            prefix = "probability_" if name == "probabilities" else ""
            cells |= {f"{prefix}{label}": number for label, number in value.items()}
        elif name == "labels":
            cells[name] = " ".join(value)
        elif isinstance(value, list):
            if any(isinstance(part, list) for part in value):
                raise OnnxModelError("predictions of several dimensions do not fit into CSV; name the file .jsonl")
            cells |= {f"{name}_{index}": part for index, part in enumerate(value)}
        else:
            cells[name] = value
    return cells
