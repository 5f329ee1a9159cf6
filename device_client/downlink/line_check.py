"""Whether a model is of this program's line and student: decides before anything is trained, evaluated or exported.

The labels and fixed buffers in the manifest are compared first (`wire_contract/line_description.py`), then the
layout. Another layout may be that of an earlier or later student, for whose line a device waits. Other labels or
fixed buffers are a fault of configuration, unless the line changed while the program ran: with them the same weights
mean something else. A manifest without a description is of an older line, and is accepted.
"""

from dataclasses import dataclass

from device_client.downlink.outcome import NewModel
from wire_contract.errors import LineMismatch
from wire_contract.layout import Layout, different_tensors
from wire_contract.line_description import LineDescription, other_buffer, other_labels

SAME_VALUES = (
    "It is not sent, so its constructor must make the same values in every program: random numbers from torch, "
    "numpy.random and random are seeded alike everywhere, a generator of its own needs a seed, such as "
    "numpy.random.default_rng(0), and os.urandom or the time must not be used."
)
"""What to do about a fixed buffer that differs."""


@dataclass(frozen=True, kw_only=True)
class OwnLine:
    """What this program takes its line to be: the task that it was given."""

    task: str
    description: LineDescription
    program: str = "device"
    """What it is called in messages."""
    noun: str = "classes"
    """What the labels are called in messages."""
    network: str = "student"
    place: str = "the line"
    """What it is compared with."""
    remedy: str = "begin a new line with a new initial model (asyncfedkd device initial-model)"
    """What makes a new one of these."""

    def refusal(self, line: LineDescription | None) -> str | None:
        """Why a model with this description cannot be used, and what to do; None: it can, or has no description."""
        if line is None:
            return None
        other = other_labels(self.description, line, mine=f"this {self.program}'s", noun=self.noun, place=self.place)
        if other is not None:
            return (
                f"task {self.task}: {other}; one output would mean two things. Give this {self.program} the task that "
                f"{self.place} was made with, or, if the {self.noun} have changed, {self.remedy}"
            )
        buffer = other_buffer(self.description, line, place=f"in {self.place}")
        if buffer is None:
            return None
        changed = f"If the {self.network} has changed, {self.remedy}"
        return f"task {self.task}: {self.network}: {buffer}. {SAME_VALUES} {changed}"


class LineCheck:
    """Looks at each model that a device holds."""

    def __init__(self, layout: Layout, own: OwnLine | None, *, task: str) -> None:
        """`layout` is that of the task's student; without `own`, labels and fixed buffers are not compared."""
        self._layout = layout
        self._own = own
        self._task = task
        self._has_fitted = False
        self.is_fitting = False
        """Whether the held model can be trained."""
        self.is_foreign = False
        """Whether the held model is of a line with other labels or fixed buffers: nothing may be sent to it."""

    def refusal(self, line: LineDescription | None) -> str | None:
        """Why a model with this description cannot be used; None: it can."""
        return None if self._own is None else self._own.refusal(line)

    def look(self, model: NewModel) -> str | None:
        """Looks at a newly held model. Returns what to tell the operator, if anything.

        Raises:
            LineMismatch: the first model of this process has the student's layout, and other labels or fixed buffers.
                With another layout, the line of this student may begin later.
        """
        refusal, found = self.refusal(model.manifest.line), model.published.layout
        has_own_layout = found.fingerprint == self._layout.fingerprint
        self.is_foreign, self.is_fitting = refusal is not None, has_own_layout and refusal is None
        if refusal is not None:
            if has_own_layout and not self._has_fitted:
                raise LineMismatch(refusal)
            return f"{refusal}. Until then nothing is trained or uploaded"
        self._has_fitted = True
        return None if has_own_layout else self._misfit(model.published.version, found)

    def _misfit(self, version: int, found: Layout) -> str:
        here, there = ({spec.name: spec.shape for spec in layout.tensors} for layout in (self._layout, found))
        return (
            f"model {version} is of an earlier or later student than that of task {self._task} on this device "
            f"({found.size} parameters in {len(found.tensors)} tensors, not {self._layout.size} in "
            f"{len(self._layout.tensors)}): {different_tensors(here, there, place='the model')}. As soon as there is a "
            "line for this device's student (aggregator begin-line), the device goes on to it by itself; until then it "
            "does not train"
        )
