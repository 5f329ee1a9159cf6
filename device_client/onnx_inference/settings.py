"""Flags of `predict`; those of `evaluate --onnx` are in `device_client/settings.py`."""

from pathlib import Path

from pydantic import Field

from wire_contract.program.command_settings import CommandSettings

INPUTS_HELP = "examples: .npy (the only input), .npz (arrays by the names of the model's inputs) or .csv"
DIGEST_HELP = "digest that the ONNX model must have, hex, or its beginning"


class PredictSettings(CommandSettings):
    """Predicts with an exported ONNX model, without torch."""

    model: Path = Field(description="ONNX file written by export")
    inputs: Path = Field(description=INPUTS_HELP)
    out: Path | None = Field(
        None, description="file to write: .csv, or JSON lines under any other name; default: JSON lines on the terminal"
    )
    digest: str | None = Field(None, min_length=8, pattern="^[0-9a-fA-F]+$", description=DIGEST_HELP)
    threads: int = Field(1, ge=1, le=1024, description="number of threads for onnxruntime and numpy")
