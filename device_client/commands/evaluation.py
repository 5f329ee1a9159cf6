"""`evaluate`: of the models that a broker publishes, or of an exported one."""

from device_client.settings import EvaluateSettings


def evaluate(settings: EvaluateSettings) -> None:
    """Runs the one that the flags ask for; only the first imports torch."""
    if settings.onnx is None:
        from device_client.commands.evaluate import evaluate_models  # noqa: PLC0415 — see above

        evaluate_models(settings)
    else:
        from device_client.commands.evaluate_onnx import evaluate_onnx  # noqa: PLC0415 — see above

        evaluate_onnx(settings)
