"""`predict`: what an exported ONNX model says of examples, without torch."""

import io
import os
import sys

from device_client.onnx_inference.example_files import read_examples
from device_client.onnx_inference.exported_model import ExportedModel
from device_client.onnx_inference.predictions import predictions, write_csv, write_json_lines
from device_client.onnx_inference.settings import PredictSettings
from wire_contract.files.atomic_write import write_atomically
from wire_contract.program.blas_threads import limit_blas_threads
from wire_contract.program.command_settings import UsageError


def predict(settings: PredictSettings) -> None:
    """Writes one prediction for each example; what was used and how many there are goes to standard error."""
    limit_blas_threads(settings.threads)
    model = ExportedModel(settings.model, threads=settings.threads, digest=settings.digest)
    found = predictions(model, read_examples(settings.inputs, model).inputs)
    known = model.metadata
    if settings.out is None:
        try:
            count, where = write_json_lines(found, sys.stdout), ""
            sys.stdout.flush()
        except BrokenPipeError:  # what reads the lines has enough, such as `head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush when Python ends
            return
    else:
        text = io.StringIO()
        count = (write_csv if settings.out.suffix.lower() == ".csv" else write_json_lines)(found, text)
        where = f": {settings.out}"
        try:
            write_atomically(settings.out, text.getvalue().encode())
        except OSError as error:
            raise UsageError(f"{settings.out}: {error.strerror or error}") from None
    version = "" if known.version is None else f" version {known.version},"
    print(f"task {known.task},{version} digest {known.digest[:12]}…: {count} predictions{where}", file=sys.stderr)
