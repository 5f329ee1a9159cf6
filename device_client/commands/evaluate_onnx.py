"""`evaluate --onnx`: measures an exported ONNX model on labelled examples from a file, without torch or a broker."""

import math
import sys

from device_client.events import EventLog
from device_client.onnx_inference.example_files import read_examples
from device_client.onnx_inference.exported_model import ExportedModel, OnnxModelError
from device_client.onnx_inference.metrics import LOWER_IS_BETTER, metrics_of
from device_client.settings import EvaluateSettings
from wire_contract.program.blas_threads import limit_blas_threads
from wire_contract.program.clock import SYSTEM_CLOCK


def evaluate_onnx(settings: EvaluateSettings) -> None:
    """Emits the same event as an evaluation over a broker; nothing is published."""
    assert settings.onnx is not None
    assert settings.inputs is not None
    limit_blas_threads(settings.threads)
    emit = EventLog(sys.stdout, unix=SYSTEM_CLOCK.unix, log_format=settings.log_format)
    model = ExportedModel(settings.onnx, threads=settings.threads, digest=settings.digest)
    known, metrics = model.metadata, metrics_of(model.metadata)
    examples = read_examples(settings.inputs, model)
    targets = examples.targets
    if targets is None and known.objective == "reconstruction" and len(examples.inputs) == 1:
        (targets,) = examples.inputs.values()
    if targets is None:
        raise OnnxModelError(f"{settings.inputs}: holds no labels or targets, without which nothing can be measured")
    for chosen, outputs in model.passes(examples.inputs):
        metrics.update(outputs[model.outputs[0]], targets[chosen])
    measured = metrics.compute()
    values = {name: value for name, value in measured.items() if math.isfinite(value)}
    main = known.main_metric
    if main not in measured:
        main = next(iter(measured))
        emit("warning", message=f"the main metric {known.main_metric} is the task's own and was not measured")
    if main not in values:
        raise OnnxModelError(f"{settings.inputs}: the main metric {main} is not finite on these examples")
    emit(
        "evaluated",
        version=known.digest[:12] if known.version is None else known.version,
        metrics=values,
        main_metric=main,
        higher_is_better=main not in LOWER_IS_BETTER,
    )
