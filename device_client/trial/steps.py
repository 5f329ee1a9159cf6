"""The steps of a trial in their order, and how they are run: the first fault ends it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from device_client.model_files import ModelFileError
from device_client.task import TaskError
from device_client.trial import data_steps, network_steps, shortcuts, split_step, wire_steps
from device_client.trial.trial import Trial
from wire_contract.errors import ContractError

Verdict = Literal["ok", "fault"]

STEPS: Sequence[tuple[str, Callable[[Trial], str]]] = (
    ("student", network_steps.make_student),
    ("device data", data_steps.load_devices),
    ("held-out data", data_steps.load_held_out),
    ("teacher's data", data_steps.load_teacher_data),
    ("split", split_step.compare_sides),
    ("teacher", network_steps.make_teacher),
    ("forward pass", network_steps.pass_data),
    ("loss", network_steps.differentiate),
    ("training", network_steps.train),
    ("updates", wire_steps.encode_updates),
    ("merge", wire_steps.merge),
    ("evaluation", wire_steps.measure),
    ("export", wire_steps.export_model),
)
"""Each returns one line about what it found, and raises an error of one line if it found a fault."""

SHORTCUTS = ("shortcuts", shortcuts.find_shortcuts)
"""The last step, if it is asked for."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """The result of one step."""

    name: str
    verdict: Verdict
    seconds: float
    line: str
    """What was found; or the fault."""
    notes: tuple[str, ...] = ()
    """What works, but with a drawback."""
    error: BaseException | None = None


def examine(trial: Trial) -> Iterator[Step]:
    """Runs the steps up to the first fault."""
    for name, act in (*STEPS, *((SHORTCUTS,) if trial.with_shortcuts else ())):
        trial.notes.clear()
        started = trial.monotonic()
        try:
            line, error = act(trial), None
        except (TaskError, ModelFileError, ContractError) as fault:
            line, error = " ".join(str(fault).split()), fault
        yield Step(
            name=name,
            verdict="ok" if error is None else "fault",
            seconds=trial.monotonic() - started,
            line=line,
            notes=tuple(trial.notes),
            error=error,
        )
        if error is not None:
            return
