"""Flags and environment variables of each command. Every flag `--x-y` is also the variable FEDKD_X_Y; the flag wins.

Nothing here imports torch, so that `--help` and a wrong flag are answered at once.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from device_client.events import LogFormat
from device_client.onnx_inference.settings import DIGEST_HELP, INPUTS_HELP
from device_client.policy.conditions import Conditions, PredicateName, parse_quiet_hours
from device_client.starts.kinds import Kind
from wire_contract.compression.choice import EncodingChoice, LowRankEnergy
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.encoding import EncodingName
from wire_contract.program.command_settings import CommandSettings
from wire_contract.program.health_command import HEALTH_FILE_HELP
from wire_contract.settings import ConnectionSettings, DeviceName, Files, check_broker

Method = Literal["asyncfedkd", "fedkd"]
"""The same as `task.Method`, whose module imports torch."""
Accelerator = Literal["auto", "cpu", "cuda"]
UpdateEncoding = EncodingName | Literal["planned", "low-rank"]
UPDATE_BYTES = 2_048
"""Default size of an update's tensors: `docs/experiments.md` has the accuracy at other sizes."""
UPDATE_BYTES_MIN = 128
"""Below this, the heads of the tensors leave next to nothing for their content."""
Network = Literal["unmetered", "metered", "unknown"]

_TASK = (
    "what is learned: physiotherapy, har, ecg, mammography, mammography-efficientnet, mammography-crops, or your own "
    "as path/to/file.py:function or package.module:function"
)
_DATA = "folder with the task's data, if the task needs one"
_THREADS = "number of threads for torch and numpy"


def _quiet_hours(text: str) -> str:
    parse_quiet_hours(text)
    return text


def _broker_if_any(url: str) -> str:
    return check_broker(url) if url else url


OptionalBrokerUrl = Annotated[str, AfterValidator(_broker_if_any)]
Percent = Annotated[float, Field(ge=0, le=100)]
Hours = Annotated[str, AfterValidator(_quiet_hours)]


class LearningSettings(CommandSettings):
    """The flags of every command that works on a task."""

    flag_groups = {"task": "", "data": "learning"}  # noqa: RUF012 — see CommandSettings

    task: str = Field(min_length=1, description=_TASK)
    data: Path | None = Field(None, description=_DATA)
    threads: int = Field(1, ge=1, le=1024, description=_THREADS)
    accelerator: Accelerator = Field(
        "auto", description="where networks are computed; auto: CUDA if there is a device, else the CPU"
    )
    debug: bool = Field(False, description="print the traceback of a fault before its one line")


class OnlineSettings(LearningSettings, ConnectionSettings):
    """The flags of every command that connects to a broker."""

    flag_groups = {"log_format": "log", "model_key": "signatures"}  # noqa: RUF012 — see CommandSettings

    task: str = Field(min_length=1, description=_TASK)
    log_format: LogFormat = Field("text", description="output as text for people or as one JSON object per line")
    model_key: Files = Field(
        (), description="public key (.pub) that models must be signed with; repeat for a second key, either is accepted"
    )


class RunSettings(OnlineSettings):
    """Trains on this device's data and sends updates, until it is stopped."""

    flag_groups = {  # noqa: RUF012 — see CommandSettings
        "device": "",
        "method": "learning",
        "update_encoding": "updates",
        "upload_charging": "when it may train and upload",
        "update_signing_key": "signatures",
        "network": "when it may train and upload",
    }

    device: DeviceName = Field(description="name of this device; it must never change")
    state: Path = Field(description="state folder, which must survive restarts; one for each device")
    health_file: Path | None = Field(None, description=HEALTH_FILE_HELP)
    method: Method | None = Field(
        None,
        description="asyncfedkd: train under a frozen teacher; fedkd: train together with the device's own teacher, "
        "kept in --state; default: as the task's recipe says",
    )
    teacher: Path | None = Field(
        None,
        description="teacher file made by pretrain-teacher, or a checkpoint of another program (safetensors, or a "
        "state dict saved by torch); it never leaves the device. Optional for fedkd, where the device's own teacher "
        "starts from it, once",
    )
    teacher_is_published: bool = Field(
        False,
        description="accept a published model as --teacher: the student of an earlier line, written by export, teaches "
        "the student of the next one",
    )
    seed: int = Field(0, ge=0, description="random seed for shuffling, augmentation and dropout")
    schedule_versions: int | None = Field(
        None,
        ge=1,
        description="version at which a cosine schedule of the learning rate ends, the same on all devices; default: "
        "as the task's recipe says",
    )
    duty_cycle: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of a round spent computing, 0 to 1; below 1 the device rests in between",
    )

    update_encoding: UpdateEncoding = Field(
        "planned",
        description="encoding of updates: planned: the best that fits into --update-bytes; low-rank: FedKD's factors; "
        "or one encoding for all tensors",
    )
    update_bytes: int = Field(
        UPDATE_BYTES,
        ge=UPDATE_BYTES_MIN,
        description="for planned: size of an update's tensors, bytes; what does not fit is sent with the next updates",
    )
    local_rounds_max: int = Field(4, ge=1, description="most rounds trained on one model while there is no newer one")
    retrain_after_seconds: float = Field(60.0, ge=0, description="pause before a further round on one model, seconds")
    receipt_timeout_seconds: float = Field(
        30.0, gt=0, description="how long to wait for a receipt before the update is sent again, seconds"
    )
    resend_delay_max_seconds: float = Field(300.0, gt=0, description="longest delay before sending again, seconds")
    outbox_updates_max: int = Field(64, ge=1, description="training pauses while this many updates wait for a receipt")

    upload_charging: bool = Field(False, description="upload only while charging")
    upload_unmetered: bool = Field(False, description="upload only over a network that is not metered")
    upload_battery_percent_min: Percent | None = Field(
        None, description="upload only from this battery level on, percent"
    )
    upload_quiet_hours: Hours | None = Field(None, description="do not upload during HH:MM-HH:MM, local time")
    train_charging: bool = Field(False, description="train only while charging")
    train_battery_percent_min: Percent | None = Field(
        None, description="train only from this battery level on, percent"
    )
    train_quiet_hours: Hours | None = Field(None, description="do not train during HH:MM-HH:MM, local time")
    approval: Path | None = Field(
        None,
        description="compliance approval (JSON), without which uploads wait; form: device_client/policy/approval.py",
    )
    train_approval: bool = Field(False, description="training waits for the approval as well")
    update_signing_key: Path | None = Field(
        None, description="private key (see signing-key) that signs updates, for aggregators that require it"
    )
    network: Network = Field("unknown", description="whether traffic costs money, which no system reports")
    simulated_state: Path | None = Field(
        None,
        description="JSON file with a simulated state of the device; form: device_client/policy/probe.py",
    )

    @model_validator(mode="after")
    def _approval_is_named(self) -> "RunSettings":
        if self.train_approval and self.approval is None:
            raise ValueError("--train-approval needs --approval FILE")
        return self

    def encoding(self, *, schedule_versions: float) -> EncodingChoice:
        """The encoding of updates. Low-rank factors become more exact until the recipe's schedule ends."""
        match self.update_encoding:
            case "planned":
                return CompressionTarget(bytes_max=self.update_bytes)
            case "low-rank":
                return LowRankEnergy(versions=schedule_versions)
            case name:
                return name

    @property
    def upload_conditions(self) -> Conditions:
        return _conditions(
            charging=self.upload_charging,
            unmetered=self.upload_unmetered,
            battery=self.upload_battery_percent_min,
            quiet_hours=self.upload_quiet_hours,
            approval=self.approval is not None,
        )

    @property
    def training_conditions(self) -> Conditions:
        return _conditions(
            charging=self.train_charging,
            unmetered=False,
            battery=self.train_battery_percent_min,
            quiet_hours=self.train_quiet_hours,
            approval=self.train_approval,
        )


def _conditions(
    *, charging: bool, unmetered: bool, battery: float | None, quiet_hours: str | None, approval: bool
) -> Conditions:
    asked: dict[PredicateName, Any] = {
        "charging": charging or None,
        "unmetered": unmetered or None,
        "battery": battery,
        "quiet_hours": parse_quiet_hours(quiet_hours) if quiet_hours else None,
        "approval": approval or None,
    }
    return {name: parameter for name, parameter in asked.items() if parameter is not None}


class EvaluateSettings(OnlineSettings):
    """Measures each new version on held-out data, and prints and publishes the metrics."""

    flag_groups = {"device": "", "onnx": "an exported model instead, without torch"}  # noqa: RUF012 — see CommandSettings

    task: str = Field("", description=_TASK + "; not needed with --onnx")
    broker: OptionalBrokerUrl = Field("", description="broker URL, as for run; not needed with --onnx")
    device: DeviceName = Field("evaluator", description="name of this evaluator among the devices")
    health_file: Path | None = Field(None, description=HEALTH_FILE_HELP)
    once: bool = Field(False, description="stop after the first version")
    onnx: Path | None = Field(
        None, description="ONNX file written by export: measures it on --inputs, prints the metrics and ends"
    )
    inputs: Path | None = Field(None, description=f"{INPUTS_HELP}, with labels or targets")
    digest: str | None = Field(None, min_length=8, pattern="^[0-9a-fA-F]+$", description=DIGEST_HELP)

    @model_validator(mode="after")
    def _model_comes_from_broker_or_file(self) -> "EvaluateSettings":
        if self.onnx is not None:
            if self.inputs is None:
                raise ValueError("--onnx needs --inputs FILE, labelled examples")
            return self
        for name in ("inputs", "digest"):
            if getattr(self, name) is not None:
                raise ValueError(f"--{name} is for --onnx")
        missing = [name for name in ("task", "broker") if not getattr(self, name)]
        if missing:
            raise ValueError("; ".join(f"--{name} is missing (or set FEDKD_{name.upper()})" for name in missing))
        return self


class ExportSettings(OnlineSettings):
    """Writes the newest global model, or a device's own teacher, as safetensors and ONNX."""

    flag_groups = {"model": ""}  # noqa: RUF012 — see CommandSettings

    broker: OptionalBrokerUrl = Field(
        "", description="broker URL, as for run; not needed with --model or --local-teacher"
    )
    model: Path | None = Field(None, description="safetensors file to export instead of the broker's newest model")
    local_teacher: Path | None = Field(
        None,
        description="state folder of a device that runs fedkd: export its own teacher instead of the global model, as "
        "teacher.safetensors and teacher.onnx",
    )
    statistics: Path | None = Field(
        None,
        description="statistics.safetensors from a device's --state: give the exported model its running "
        "statistics, for a task whose statistics stay at home; by default they are estimated from held-out inputs",
    )
    out: Path = Field(description="folder for model.safetensors and model.onnx")
    wait_seconds: float = Field(30.0, ge=0, description="how long to wait for a model from the broker, seconds")

    @model_validator(mode="after")
    def _model_comes_from_somewhere(self) -> "ExportSettings":
        if self.model is not None and self.local_teacher is not None:
            raise ValueError("--model and --local-teacher exclude each other; export one after the other")
        if not self.broker and self.model is None and self.local_teacher is None:
            raise ValueError("--broker is missing (or set FEDKD_BROKER, or give --model FILE)")
        return self


class NewTaskSettings(CommandSettings):
    """Writes a task that works, with made-up data, and its test: a start for one of your own."""

    positional: ClassVar[Collection[str]] = ("name",)
    only_flags: ClassVar[Collection[str]] = ("kind", "out")

    name: str = Field(description="name of the task and of its file; letters, digits and _")
    kind: Kind = Field("classification", description="what is learned")
    out: Path = Field(Path(), description="folder for NAME.py and test_NAME.py; default: this one")


class SigningKeySettings(CommandSettings):
    """Creates a key that signs this device's updates: a private file, and FILE.pub for the aggregator."""

    out: Path = Field(description="file for the private key; the public key is written to FILE.pub")


class InitialModelSettings(LearningSettings, CommandSettings):
    """Writes the initial model that an aggregator starts from: a student with fresh weights."""

    flag_groups = {"out": "", "seed": "learning"}  # noqa: RUF012 — see CommandSettings

    out: Path = Field(description="safetensors file to write")
    seed: int = Field(0, ge=0, description="random seed for the initial weights")
    weights: Path | None = Field(
        None,
        description="use the student in this file instead of fresh weights: an exported model, an initial model of an "
        "older version, or a checkpoint of another program (safetensors, or a state dict saved by torch)",
    )


class PretrainTeacherSettings(LearningSettings, CommandSettings):
    """Trains the teacher on data of persons who are neither on a device nor held out, and writes it."""

    flag_groups = {"out": "", "seed": "learning"}  # noqa: RUF012 — see CommandSettings

    out: Path = Field(description="safetensors file to write")
    epochs: int | None = Field(None, ge=1, description="passes over its data; default: as the task's recipe says")
    seed: int = Field(0, ge=0, description="random seed for initial weights, shuffling, augmentation and dropout")
