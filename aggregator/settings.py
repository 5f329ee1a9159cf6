"""What an operator sets: flags, or environment variables with the prefix FEDKD_."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from aggregator.admission import AdmissionPolicy
from aggregator.log_format import LogFormat, LogLevel
from aggregator.merging.peers import BUDGET_RATIO
from aggregator.merging.staleness import ABSENCE_MAX, SAMPLES_RATIO_MAX, Decay, SampleWeight
from aggregator.model_line import DELTA_BYTES, LineSettings
from aggregator.publishing.ownership import MOVED_VERSION_MAX
from aggregator.telemetry.settings import TelemetrySettings
from wire_contract.compression.choice import EncodingChoice, LowRankEnergy
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.encoding import EncodingName
from wire_contract.limits import DELTA_BYTES_MAX, INLINE_BYTES_MAX, KEPT_DELTAS, KIB, UPDATE_LIMITS
from wire_contract.program.command_settings import CommandSettings
from wire_contract.program.health_command import HEALTH_FILE_HELP, HealthSettings
from wire_contract.settings import ConnectionSettings, Files
from wire_contract.signatures.key_files import KeyFolder


class RunSettings(TelemetrySettings, ConnectionSettings):
    """Merges what devices learn and publishes versioned models."""

    flag_groups = {  # noqa: RUF012 — see CommandSettings
        "ledger": "ledger",
        "updates_per_version": "versions and merging",
        "model_encoding": "what is published",
        "update_bytes_max": "what is taken",
        "journal_versions_kept": "ledger",
        "signing_key": "signatures",
        "shard": "shards",
        "log_format": "log",
        "health_file": "health",
    }

    ledger: Path = Field(Path("ledger.sqlite3"), description="the aggregator's durable memory, one SQLite file")
    initial_model: Path | None = Field(
        None, description="safetensors file that a new line begins with; not needed once the ledger has a model"
    )
    updates_per_version: int = Field(
        4, ge=1, description="a new version when so many devices have handed something in (K)"
    )
    version_seconds: float = Field(
        60.0,
        gt=0,
        description="a new version so long after the first update that waits, also with fewer devices, seconds",
    )
    devices_min: int = Field(
        2,
        ge=1,
        description="devices that a version needs, whatever the time and K; 1 where one person's update may be "
        "published as a version of its own, as it is when there is only one device",
    )
    server_rate: float = Field(
        1.0,
        gt=0,
        le=10,
        description="share of the mean difference that is taken (η of FedBuff); less than 1 where K is less than "
        "two thirds of the devices; try 0.7 at half of them",
    )
    staleness_decay: Decay = Field("polynomial", description="how stale updates lose weight; polynomial is (1+s)^-1/2")
    absence_max: int = Field(
        ABSENCE_MAX,
        ge=1,
        le=1_000,
        description="an update counts as many times as versions went by since its device was last merged, at most so "
        "many; 1 turns this off, and slow devices then have little say",
    )
    staleness_max: int = Field(1_000, ge=0, description="older updates are refused, versions")
    sample_weight: SampleWeight = Field("linear", description="how an update's weight grows with its samples")
    samples_ratio_max: float = Field(
        SAMPLES_RATIO_MAX,
        ge=1,
        description="samples count up to so many times the median over devices: they are what a device claims",
    )
    slot_norm_ratio: float = Field(
        BUDGET_RATIO,
        ge=0.01,
        le=1e6,
        description="what one device may move the model by in a version before it is scaled down, in multiples of the "
        "median over devices",
    )
    model_encoding: EncodingName = Field(
        "float16", description="encoding of published models; in int8 every version goes whole"
    )
    model_deltas: bool = Field(
        True, description="publish what leads from one version to the next, so that devices need not take it whole"
    )
    delta_bytes: int = Field(
        DELTA_BYTES,
        ge=64,
        le=DELTA_BYTES_MAX - KIB,
        description="size of a delta, bytes; what does not fit is in the next one",
    )
    delta_message_bytes_max: int = Field(
        INLINE_BYTES_MAX,
        ge=KIB,
        le=DELTA_BYTES_MAX,
        description="a version whose delta message is larger goes whole, bytes; more than the default only where the "
        "broker takes such packets, and then deltas that large are fetched from topics of their own",
    )
    delta_error: float | None = Field(
        None, gt=0, lt=1, description="instead of --delta-bytes: relative error of a delta; its size is what that takes"
    )
    delta_low_rank_versions: float | None = Field(
        None, gt=0, description="instead of both: FedKD's low-rank deltas, their energy rising over so many versions"
    )
    snapshot_versions: int = Field(
        KEPT_DELTAS,
        ge=1,
        le=KEPT_DELTAS,
        description="a version goes whole at least every so many; 1 for devices that cannot follow deltas",
    )
    update_bytes_max: int = Field(
        UPDATE_LIMITS.compressed_bytes, ge=1_024, le=UPDATE_LIMITS.compressed_bytes, description="largest update, bytes"
    )
    norm_ratio_max: float = Field(
        10.0, gt=0, description="an update whose norm is over so many times the model's is refused as diverged"
    )
    journal_versions_kept: int = Field(
        10_000,
        ge=2,
        description="versions whose updates stay in the ledger byte for byte; older ones go, their totals stay",
    )
    signing_key: Files = Field(
        (), description="private key that signs published models (see signing-key); again for a second one"
    )
    model_lifetime_seconds: float | None = Field(
        None,
        ge=60,
        description="devices that pin keys refuse a manifest this long after it was published; a fresh one comes at "
        "half of it, seconds",
    )
    device_keys: Path | None = Field(
        None,
        description="folder with NAME.pub a device; with it, updates that are not signed by their device are refused",
    )
    evaluator: list[str] = Field(
        [],
        description="name of an evaluator whose evaluations count; evaluator, evaluator-1, evaluator.COHORT … "
        "always do; repeat for more",
    )
    replace_line: bool = Field(
        False,
        description="begin anew over another line that stands on the broker, instead of refusing to start: devices "
        "drop that line, and with it what they have learned on it",
    )
    shard: int = Field(0, ge=0, description="which shard of the devices this aggregator serves")
    shards: int = Field(1, ge=1, le=65_536, description="how many aggregators share the task")
    log_format: LogFormat = Field("text", description="lines for people (text) or one JSON object a line (json)")
    log_level: LogLevel = Field("info", description="the least that is worth a line")
    health_file: Path | None = Field(None, description=f"{HEALTH_FILE_HELP}; else beside the ledger, with .health")
    metrics_file: Path | None = Field(
        None, description="file for Prometheus' node_exporter (its textfile collector), as in /var/lib/fedkd/fedkd.prom"
    )

    @model_validator(mode="after")
    def _shard_exists(self) -> Self:
        if self.shard >= self.shards:
            raise ValueError(
                f"shard {self.shard} does not exist: with --shards {self.shards} the last is {self.shards - 1}"
            )
        return self

    @model_validator(mode="after")
    def _files_are_apart(self) -> Self:
        ledger = self.ledger.resolve()
        taken = {
            ledger.with_name(ledger.name + end): "the ledger's" for end in ("", "-wal", "-shm", "-journal", ".lock")
        }
        for flag, named in (("--health-file", self.health_file), ("--metrics-file", self.metrics_file)):
            if named is None:
                continue
            path = named.resolve()
            if path in taken:
                raise ValueError(f"{flag} {named} is {taken[path]}; give a file of its own")
            taken[path] = "already the --health-file"
        return self

    @model_validator(mode="after")
    def _expiry_is_signed(self) -> Self:
        if self.model_lifetime_seconds is not None and not self.signing_key:
            raise ValueError(
                "--model-lifetime-seconds needs --signing-key FILE: only who checks signatures looks at it"
            )
        return self

    @model_validator(mode="after")
    def _deltas_fit(self) -> Self:
        if self.delta_bytes + KIB > self.delta_message_bytes_max:
            raise ValueError(
                f"deltas of {self.delta_bytes} bytes need --delta-message-bytes-max {self.delta_bytes + KIB} or more, "
                f"not {self.delta_message_bytes_max}"
            )
        return self

    def _delta_encoding(self) -> EncodingChoice | None:
        if not self.model_deltas:
            return None
        if self.delta_low_rank_versions is not None:
            return LowRankEnergy(versions=self.delta_low_rank_versions)
        return (
            CompressionTarget(bytes_max=self.delta_bytes)
            if self.delta_error is None
            else CompressionTarget(error_max=self.delta_error)
        )

    def line_settings(self) -> LineSettings:
        """What decides about updates and versions.

        Raises:
            KeyUnusable: the folder of device keys, or a file in it.
        """
        keys = None if self.device_keys is None else KeyFolder(self.device_keys)
        if keys is not None:
            keys.check()
        policy = AdmissionPolicy(
            decay=self.staleness_decay,
            sample_weight=self.sample_weight,
            absence_max=self.absence_max,
            samples_ratio_max=self.samples_ratio_max,
            slot_norm_ratio=self.slot_norm_ratio,
            staleness_max=self.staleness_max,
            update_bytes_max=self.update_bytes_max,
            norm_ratio_max=self.norm_ratio_max,
            shard=self.shard,
            shards=self.shards,
            device_keys=None if keys is None else keys.keys_of,
        )
        return LineSettings(
            task=self.task,
            updates_per_version=self.updates_per_version,
            version_seconds=self.version_seconds,
            devices_min=self.devices_min,
            server_rate=self.server_rate,
            model_encoding=self.model_encoding,
            delta_encoding=self._delta_encoding(),
            delta_message_bytes_max=self.delta_message_bytes_max,
            snapshot_versions=self.snapshot_versions,
            journal_versions_kept=self.journal_versions_kept,
            policy=policy,
        )


class SigningKeySettings(CommandSettings):
    """Makes a key that signs published models: a private file, and FILE.pub for the devices."""

    out: Path = Field(description="file for the private key; the public one becomes FILE.pub")


class MoveForwardSettings(CommandSettings):
    """Gives the newest model of a ledger a higher version, after an older copy of the ledger was restored."""

    ledger: Path = Field(Path("ledger.sqlite3"), description="the aggregator's durable memory, one SQLite file")
    version: int = Field(
        ge=1, le=MOVED_VERSION_MAX, description="new number of the newest version, above all that devices have seen"
    )
    shard: int = Field(0, ge=0, description="which shard of the devices the ledger serves")


def health_file_of(ledger: Path) -> Path:
    """Where an aggregator says that it works, unless it is told another place."""
    ledger = ledger.resolve()  # the same one for all names of a ledger
    return ledger.with_name(f"{ledger.name}.health")


class AggregatorHealthSettings(HealthSettings):
    """Says whether the aggregator of a ledger runs and does its work; exit code 2 if it does not."""

    ledger: Path = Field(Path("ledger.sqlite3"), description="the aggregator's ledger, if it has no --health-file")


class StatusSettings(CommandSettings):
    """Shows what a ledger holds."""

    ledger: Path = Field(Path("ledger.sqlite3"), description="the aggregator's durable memory, one SQLite file")
    json_output: bool = Field(False, alias="json", description="print JSON for programs")
