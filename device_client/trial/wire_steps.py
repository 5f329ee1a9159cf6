"""Steps of a trial from a trained student to the wire and back: updates, their merge, evaluation, export.

The merge is the mean of the decoded differences: the arithmetic of a version that consists of two fresh updates of the
same weight. The aggregator itself is another program, which the device does not import.
"""

import tempfile
from pathlib import Path

import numpy as np

from device_client.export import export
from device_client.learning.evaluation import evaluate
from device_client.learning.parameters import LoadedWeights, load_vector, vector_of
from device_client.model_files import ModelFile
from device_client.task import TaskError
from device_client.tasks.first_batch import trial_step
from device_client.to_onnx.errors import ExportError
from device_client.trainer import Trained
from device_client.trial.network_steps import HELD_OUT_MAX, Few, one_step
from device_client.trial.trial import Trial
from device_client.uplink.rounds import Round, make_update
from wire_contract.codec import decode
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.encoding import decode_vector
from wire_contract.layout import digest
from wire_contract.messages import Identity, Update
from wire_contract.publication.manifest import PublishedVersion

_ROUNDS_A_DAY = 24
"""For the bytes of a day; one round an hour is an example, not a rule."""
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_INCARNATION = bytes(8)


def encode_updates(trial: Trial) -> str:
    """The updates of two devices, as they are sent. Where there is only one device, it trains twice."""
    task = trial.task
    trial.base = PublishedVersion(
        task=task.name, version=0, layout=trial.layout, weights=trial.initial, digest=digest(trial.initial)
    )
    names = [*trial.data, trial.first_device][:2]
    for number, device in enumerate(names, start=1):
        loaded = LoadedWeights.load(trial.student, trial.layout, trial.initial)
        with trial_step(f"task {task.name}: training a batch of {device}"):
            result = one_step(trial, trial.student, trial.data[device])
        trained = Trained(
            weights=loaded.after(trial.student),
            samples=max(1, result.samples),
            steps=result.local_steps,
            metrics=result.metrics,
        )
        payload, _student = make_update(
            Round(trial.base, 1, trial.initial),
            trained,
            task=task.name,
            identity=Identity(device, _INCARNATION, number),
            encoding=CompressionTarget(bytes_max=trial.update_bytes),
            train_seconds=result.train_seconds,
            now=0.0,
        )
        trial.payloads.append(payload)
    size = len(trial.payloads[0])
    share = size / (4 * trial.layout.size)
    return (
        f"{size:,} bytes on the wire, {share:.1%} of the weights; {_ROUNDS_A_DAY} rounds a day are "
        f"{_ROUNDS_A_DAY * size / 1000:,.0f} kB up"
    )


def merge(trial: Trial) -> str:
    """Decodes both updates and merges them into the student."""
    differences = []
    for payload in trial.payloads:
        update = decode(payload, Update)
        differences.append(decode_vector(update.tensors, trial.layout))
    mean = np.mean(differences, axis=0)
    merged = (trial.initial + mean).astype(np.float32)
    merged[trial.layout.weights_size :] = mean[trial.layout.weights_size :]  # statistics are no differences
    if not np.isfinite(merged).all():
        raise TaskError(f"task {trial.task.name}: the mean of two updates is not finite")
    large = [
        spec.name
        for spec in trial.layout.tensors
        if spec.kind == "weight" and np.abs(trial.layout.views(merged)[spec.name]).max() > _FLOAT16_MAX
    ]
    if large:
        trial.note(
            f"{large[0]} holds values over {_FLOAT16_MAX:g}, the largest float16, in which the aggregator publishes "
            "models by default; start it with --model-encoding float32, or scale this tensor"
        )
    load_vector(trial.student, trial.layout, merged)
    change = float(np.linalg.norm(merged - trial.initial) / (np.linalg.norm(trial.initial) or 1.0))
    return f"two updates change the weights by {change:.1%}"


def measure(trial: Trial) -> str:
    """The metrics of the merged student on a few held-out examples."""
    task = trial.task
    with trial_step(f"task {task.name}: measuring held-out data"):
        found = evaluate(trial.student, Few(trial.held_out, HELD_OUT_MAX), task, warn=trial.note)
    shown = [f"{name} {value:.4g}" for name, value in found.items()]
    direction = "higher" if task.objective.higher_is_better else "lower"
    return f"{', '.join(shown[:2])} ({direction} {task.objective.main} is better)"


def export_model(trial: Trial) -> str:
    """Exports the merged student, and compares the ONNX model with torch."""
    if not trial.with_onnx:
        return "left out (--skip-onnx)"
    model = ModelFile(
        task=trial.task.name, layout=trial.layout, weights=vector_of(trial.student, trial.layout), version=1
    )
    with tempfile.TemporaryDirectory(prefix="asyncfedkd-check-") as folder:
        try:
            files = export(trial.task, model, Path(folder))
        except ExportError as error:
            cause = str(error).partition(f"; {folder}")[0]
            raise TaskError(
                f"task {trial.task.name}: {cause}; if the model need not run outside torch, give --skip-onnx"
            ) from error
        for note in files.notes:
            trial.note(note)
        size = files.onnx.stat().st_size
    return f"safetensors and ONNX, {size / 1000:,.0f} kB, which computes what torch does"
