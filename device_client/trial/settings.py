"""Flags of the commands that look at a task and its data. As in `device_client.settings`, nothing imports torch."""

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from pydantic import AliasChoices, Field, model_validator

from device_client.settings import UPDATE_BYTES, UPDATE_BYTES_MIN, LearningSettings
from wire_contract.program.command_settings import CommandSettings
from wire_contract.settings import Files, Names


class CheckTaskSettings(LearningSettings, CommandSettings):
    """Passes one batch through everything that is done with a task, and names the first fault."""

    flag_groups = {"device": "", "update_bytes": "updates", "shortcuts": "report"}  # noqa: RUF012 — see CommandSettings

    device: Names = Field((), description="device whose data is loaded; repeat for more; default: those of the task")
    teacher: Path | None = Field(None, description="teacher file to check, made by pretrain-teacher")
    update_bytes: int = Field(UPDATE_BYTES, ge=UPDATE_BYTES_MIN, description="size of an update's tensors, bytes")
    shortcuts: bool = Field(False, description="also report how far position, border, file or order predict the label")
    skip_onnx: bool = Field(False, description="leave out the export, for a network that need not run outside torch")
    json_output: bool = Field(
        False, validation_alias=AliasChoices("json"), description="print one JSON object instead of lines"
    )


class FingerprintsSettings(LearningSettings, CommandSettings):
    """Counts how many rows of this site another site has too, by keyed hashes that show no row."""

    flag_groups = {"device": "", "key": "fingerprints"}  # noqa: RUF012 — see CommandSettings
    only_flags: ClassVar[Collection[str]] = ("device", "teacher_data", "held_out")

    device: Names = Field((), description="device whose rows are meant; repeat for more")
    teacher_data: bool = Field(False, description="the teacher's rows are meant")
    held_out: bool = Field(False, description="the held-out rows are meant")
    key: Path = Field(description="file with a secret of 16 bytes or more, the same on all sites and nowhere else")
    out: Path | None = Field(None, description="file to write, for the other sites")
    against: Files = Field((), description="file of another site to compare with; repeat for more")
    names: bool = Field(
        False,
        description="persons and sources, too; only if all sites name them alike. Sites, which have the key, can then "
        "try names that they guess",
    )

    @model_validator(mode="after")
    def _one_side_and_something_to_do(self) -> "FingerprintsSettings":
        if [bool(self.device), self.teacher_data, self.held_out].count(True) != 1:
            raise ValueError("give one of --device NAME, --teacher-data and --held-out")
        if self.out is None and not self.against:
            raise ValueError("give --out FILE, --against FILE or both")
        return self


class DicomCheckSettings(CommandSettings):
    """Says what of a folder of mammograms can be used, and what identifies someone. Prints no identifier."""

    positional: ClassVar[Collection[str]] = ("folder",)
    only_flags: ClassVar[Collection[str]] = ("folder", "labels")

    folder: Path = Field(description="folder with DICOM files, or a DICOMDIR")
    labels: Path | None = Field(None, description="CSV file with a column label, and PatientID, SOPInstanceUID or both")
    json_output: bool = Field(
        False, validation_alias=AliasChoices("json"), description="print one JSON object instead of lines"
    )
