"""An exported ONNX model: what its metadata say, which inputs it takes, and its outputs.

Refused (OnnxModelError): a file that onnxruntime cannot load, one that `asyncfedkd device export` has not written, one
with another digest than was asked for, and inputs that do not fit. A file carries no signature: its digest names the
weights that it was made from, and does not prove them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.scores.class_scores import Ranking
from wire_contract.errors import ContractError

Array = npt.NDArray[Any]
BATCH_SIZE = 64
"""Examples in one pass. Chosen: small enough for a gateway, large enough that the overhead of a pass does not count."""
LOGITS = "logits"
_DTYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_DIGEST_CHARACTERS = 64
_ERRORS_ONLY = 3
"""onnxruntime's severity of error messages."""


class OnnxModelError(ContractError):
    """An ONNX model or its inputs cannot be used; the text is one line."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What `export` has written into the file."""

    task: str
    objective: str
    """Kind of the objective: classification, regression, …, custom."""
    labels: tuple[str, ...]
    """In the order of the model's outputs; empty: they have no names."""
    main_metric: str
    digest: str
    """Hex SHA-256 of the float32 weights."""
    version: int | None
    """None: not made from a published version."""
    ranking: Ranking | None
    """What its metrics of ranking and calibration are about; None: it has none of them."""
    batch_size: int | None
    """The only one that the model takes; None: any."""


@dataclass(frozen=True, kw_only=True)
class InputForm:
    """One input of a model."""

    name: str
    dtype: type[np.generic]
    shape: tuple[int | None, ...]
    """Of one example; None: any size."""

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{self.name} {np.dtype(self.dtype).name} (example{', ' if sizes else ''}{sizes})"

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether examples of this shape fit."""
        return len(shape) == len(self.shape) and all(
            wanted in (None, given) for wanted, given in zip(self.shape, shape, strict=True)
        )


class ExportedModel:
    """A loaded model."""

    def __init__(self, path: Path, *, threads: int = 1, digest: str | None = None) -> None:
        """Loads the file.

        Args:
            path: written by `asyncfedkd device export`.
            threads: for onnxruntime.
            digest: that the model must have, hex, or its beginning; None: any.

        Raises:
            OnnxModelError: it cannot be loaded, is no exported model, or has another digest.
        """
        import onnxruntime  # noqa: PLC0415 — an extra; help and usage errors do not need it

        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = _ERRORS_ONLY
        options.enable_cpu_mem_arena = False  # which grows to the largest pass, and is never given back
        if not path.is_file():
            raise OnnxModelError(f"ONNX model {path}: there is no such file")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise OnnxModelError(f"ONNX model {path}: {_cause(error)}") from error
        self.metadata = _metadata(path, self._session.get_modelmeta().custom_metadata_map)
        if digest is not None and not self.metadata.digest.startswith(digest.lower()):
            raise OnnxModelError(f"ONNX model {path}: its digest is {self.metadata.digest}, not {digest}")
        self.inputs = tuple(_form(path, one) for one in self._session.get_inputs())
        names = [one.name for one in self._session.get_outputs()]
        self.outputs = tuple(sorted(names, key=lambda name: name != LOGITS))
        """Names; the main one first: the logits, or else the first of the graph."""

    def checked(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs by name, converted to the model's types where no value changes.

        Raises:
            OnnxModelError: one is missing, or has another shape or type, or holds a value that is not finite.
        """
        wanted = "; ".join(map(str, self.inputs))
        missing = [form.name for form in self.inputs if form.name not in given]
        if missing:
            raise OnnxModelError(f"input {', '.join(missing)} is missing; the model takes {wanted}")
        found = {form.name: _converted(form, np.asarray(given[form.name])) for form in self.inputs}
        counts = {name: len(values) for name, values in found.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise OnnxModelError(f"the inputs must have the same number of examples, and at least one; here: {said}")
        return found

    def passes(self, inputs: Mapping[str, Array]) -> Iterator[tuple[slice, dict[str, Array]]]:
        """Which examples, and all outputs of the model for them, (example, …); `inputs` come from `checked`.

        Raises:
            OnnxModelError: onnxruntime fails.
        """
        count, size = len(next(iter(inputs.values()))), self.metadata.batch_size or BATCH_SIZE
        for start in range(0, count, size):
            chosen = slice(start, min(start + size, count))
            try:
                results = self._session.run(
                    list(self.outputs), {name: values[chosen] for name, values in inputs.items()}
                )
            except Exception as error:
                raise OnnxModelError(f"ONNX model {self.path}: {_cause(error)}") from error
            yield chosen, {name: np.asarray(values) for name, values in zip(self.outputs, results, strict=True)}


def _metadata(path: Path, found: Mapping[str, str]) -> Metadata:
    """Raises OnnxModelError unless these are the metadata of an exported model. Files of older releases, which were
    all of classification, have only classes, task and digest.
    """
    try:
        labels = json.loads(found["labels"] if "labels" in found else found["classes"])
        batch_size = found.get("batch_size", "any")
        known = Metadata(
            task=found["task"],
            objective=found.get("objective", "classification"),
            labels=tuple(labels),
            main_metric=found.get("main_metric", "accuracy"),
            digest=found["digest"],
            version=int(found["version"]) if "version" in found else None,
            ranking=Ranking.from_json(json.loads(found["ranking"])) if "ranking" in found else None,
            batch_size=None if batch_size == "any" else int(batch_size),
        )
        is_right = len(bytes.fromhex(known.digest)) * 2 == _DIGEST_CHARACTERS and len(set(labels)) == len(labels)
        is_right &= all(isinstance(label, str) for label in labels) and known.batch_size != 0
        is_right &= known.ranking is None or set(known.ranking.positive) < set(labels)
    except (KeyError, ValueError, TypeError) as error:
        raise OnnxModelError(
            f"ONNX model {path}: its metadata lack or break {_cause(error)}; make it with: asyncfedkd device export"
        ) from None
    if not is_right:
        raise OnnxModelError(f"ONNX model {path}: its digest or labels are damaged; export it again")
    return known


def _form(path: Path, described: Any) -> InputForm:
    dtype = _DTYPES.get(described.type)
    if dtype is None:
        raise OnnxModelError(f"ONNX model {path}: input {described.name} is {described.type}, which cannot be given")
    sizes = tuple(size if isinstance(size, int) else None for size in described.shape)
    return InputForm(name=described.name, dtype=dtype, shape=sizes[1:])


def _converted(form: InputForm, values: Array) -> Array:
    if values.ndim == 0 or not form.accepts(values.shape[1:]):
        raise OnnxModelError(f"input {form.name} has shape {values.shape}; the model takes {form}")
    if values.dtype.kind not in "fiub":
        raise OnnxModelError(f"input {form.name} holds {values.dtype.name}; the model takes {form}")
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise OnnxModelError(f"input {form.name}: {wrong} of {values.size} values are NaN or infinite")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = values.astype(form.dtype, copy=False)
    is_number = np.dtype(form.dtype).kind == "f"
    if is_number and not np.isfinite(converted).all():
        raise OnnxModelError(f"input {form.name}: values are too large for {converted.dtype.name}")
    if not is_number and (converted != values).any():
        raise OnnxModelError(f"input {form.name}: the model takes {form}, and some values are others")
    return converted


def _cause(error: BaseException) -> str:
    """The last line of onnxruntime's message, which is the one that names the cause."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[-1].split()) if lines else type(error).__name__
