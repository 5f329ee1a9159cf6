"""What is fixed before the first program starts: task, devices, initial model, and the parameters of the run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from device_client.learning.fixed_buffers import description_of
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.seeding import seeded
from device_client.model_files import ModelFile, write_model
from device_client.task import Task, TaskError
from device_client.task.examples import example_count, persons_of
from device_client.tasks.loading import BUILT_IN, load_task
from simulators.demo.baselines import budget_epochs
from simulators.demo.calibration import cores, versions_within
from simulators.demo.data import DemoData
from simulators.demo.plan import DemoPlan, DeviceProfile, assign_profiles
from simulators.demo.settings import DemoSettings
from simulators.reporting.nouns import nouns_of
from wire_contract.layout import Layout


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """What a run starts with."""

    task: Task
    data: DemoData
    plan: DemoPlan
    profiles: Mapping[str, DeviceProfile]
    """By device."""
    examples: Mapping[str, int]
    """By device."""
    held_out_examples: int
    held_out_persons: int
    layout: Layout
    """Of the student."""
    teacher_parameters: int
    initial_model: Path
    versions: int
    """Planned number; see `fitted_to`."""
    fleet_seconds_max: float

    @property
    def epochs(self) -> int:
        """Passes over all data of each baseline: as many as the federation plans."""
        return budget_epochs(
            versions=self.versions,
            updates_per_version=self.plan.updates_per_version,
            epochs=self.task.recipe.epochs,
            devices=len(self.profiles),
        )

    def fitted_to(self, epoch_seconds: float) -> "PreparedRun":
        """The same run with as many versions as there is time for, given the CPU time of one epoch of one device."""
        versions = versions_within(
            self.fleet_seconds_max,
            self.plan,
            epochs=self.task.recipe.epochs,
            epoch_seconds=epoch_seconds,
            cores=cores(),
        )
        return replace(self, versions=versions)


def prepare(settings: DemoSettings, folder: Path, data: DemoData) -> PreparedRun:
    """Loads the data (downloading it if necessary) and writes the initial model to `folder`.

    Raises:
        TaskError: the task or its data cannot be loaded, or it lists no devices.
    """
    task = load_task(settings.task, data=data.folder)
    if not task.devices:
        raise TaskError(f"task {task.name} lists no devices, and the demo needs some")
    names = task.devices[: settings.devices]
    held_out = task.held_out()
    with seeded(settings.seed):
        student = task.student()
    layout, line = layout_of(student, task.recipe.statistics), description_of(task, student)
    initial_model = folder / "initial.safetensors"
    weights = vector_of(student, layout)
    write_model(
        initial_model, ModelFile(task=task.name, layout=layout, weights=weights, role="initial-model", line=line)
    )
    plan = DemoPlan.of(len(names), quick=settings.quick)
    if settings.baselines_seconds is not None:
        plan = replace(plan, baselines_seconds_max=settings.baselines_seconds)
    teacher = task.teacher() if task.teacher is not None else None
    return PreparedRun(
        task=task,
        data=data,
        plan=plan,
        profiles=assign_profiles(names, hospitals=nouns_of(task.name).owner == "hospital", notes=data.notes),
        examples={name: example_count(task.examples_of(name)) or 0 for name in names},
        held_out_examples=example_count(held_out) or 0,
        held_out_persons=len(set(persons_of(held_out))),
        layout=layout,
        teacher_parameters=0 if teacher is None else sum(p.numel() for p in teacher.parameters()),
        initial_model=initial_model,
        versions=settings.versions or plan.versions,
        fleet_seconds_max=settings.seconds or plan.fleet_seconds_max,
    )


def is_data_kept(task: str) -> bool:
    """Whether the task caches the data that `read_data` loads; built-in tasks do, a user's own may not."""
    return task in BUILT_IN


def read_data(task: str, data: str) -> None:
    """Loads the data of a built-in task, which caches it in memory. `data`: its folder, or empty."""
    load_task(task, data=Path(data) if data else None).held_out()
