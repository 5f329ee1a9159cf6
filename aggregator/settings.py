"""Settings of the aggregator: flags, or environment variables with the prefix FEDKD_."""

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
    """Merges updates and publishes versioned models."""

    flag_groups = {  # noqa: RUF012 — see CommandSettings
        "ledger": "ledger",
        "updates_per_version": "versions and merging",
        "model_encoding": "published models",
        "update_bytes_max": "accepted updates",
        "journal_versions_kept": "ledger",
        "signing_key": "signatures",
        "shard": "shards",
        "log_format": "log",
        "health_file": "health",
    }

    ledger: Path = Field(Path("ledger.sqlite3"), description="the aggregator's durable state, one SQLite file")
    initial_model: Path | None = Field(
        None, description="safetensors file with the initial model; not needed once the ledger has a model"
    )
    updates_per_version: int = Field(
        4, ge=1, description="make a new version when this many devices have contributed (K)"
    )
    version_seconds: float = Field(
        60.0,
        gt=0,
        description="publish at most this long after the first buffered update, even with fewer devices, seconds",
    )
    devices_min: int = Field(
        2,
        ge=1,
        description="fewest devices in a version, whatever K and the time; 1 allows a version that consists of a "
        "single person's update, as needed if there is only one device",
    )
    server_rate: float = Field(
        1.0,
        gt=0,
        le=10,
        description="server learning rate (η of FedBuff): share of the mean difference that is applied; below 1 if K "
        "is less than two thirds of the devices; try 0.7 if it is half of them",
    )
    staleness_decay: Decay = Field(
        "polynomial", description="how weight decreases with staleness s; polynomial is (1+s)^-1/2"
    )
    absence_max: int = Field(
        ABSENCE_MAX,
        ge=1,
        le=1_000,
        description="weight is multiplied by the number of versions since the device last contributed, at most by "
        "this; 1 turns the correction off, and slow devices then have little influence",
    )
    staleness_max: int = Field(1_000, ge=0, description="updates that are more stale are refused, versions")
    sample_weight: SampleWeight = Field("linear", description="how weight grows with samples")
    samples_ratio_max: float = Field(
        SAMPLES_RATIO_MAX,
        ge=1,
        description="samples, which are a device's own claim, count up to this multiple of the median over devices",
    )
    slot_norm_ratio: float = Field(
        BUDGET_RATIO,
        ge=0.01,
        le=1e6,
        description="norm of a device's updates in one version beyond which they are scaled down, as a multiple of the "
        "median over devices",
    )
    model_encoding: EncodingName = Field(
        "float16", description="encoding of snapshots; with int8, every version is published as a snapshot"
    )
    model_deltas: bool = Field(
        True, description="publish deltas between versions, so that devices need not download snapshots"
    )
    delta_bytes: int = Field(
        DELTA_BYTES,
        ge=64,
        le=DELTA_BYTES_MAX - KIB,
        description="size of a delta, bytes; what does not fit is part of the next one",
    )
    delta_message_bytes_max: int = Field(
        INLINE_BYTES_MAX,
        ge=KIB,
        le=DELTA_BYTES_MAX,
        description="a version with a larger delta message is published as a snapshot, bytes; above the default only "
        "if the broker accepts such packets; deltas of that size have topics of their own",
    )
    delta_error: float | None = Field(
        None, gt=0, lt=1, description="instead of --delta-bytes: relative error of a delta, which determines its size"
    )
    delta_low_rank_versions: float | None = Field(
        None,
        gt=0,
        description="instead of both: FedKD's low-rank deltas, whose energy threshold rises over this many versions",
    )
    snapshot_versions: int = Field(
        KEPT_DELTAS,
        ge=1,
        le=KEPT_DELTAS,
        description="publish a snapshot at least every this many versions; 1 for devices that cannot apply deltas",
    )
    update_bytes_max: int = Field(
        UPDATE_LIMITS.compressed_bytes, ge=1_024, le=UPDATE_LIMITS.compressed_bytes, description="largest update, bytes"
    )
    norm_ratio_max: float = Field(
        10.0, gt=0, description="updates with a norm above this multiple of the model's norm are refused as diverged"
    )
    journal_versions_kept: int = Field(
        10_000,
        ge=2,
        description="versions whose updates the ledger keeps byte for byte; of older ones it keeps totals",
    )
    signing_key: Files = Field(
        (), description="private key that signs published models (see signing-key); repeat for a second one"
    )
    model_lifetime_seconds: float | None = Field(
        None,
        ge=60,
        description="time until a signed manifest expires, after which devices that pin keys refuse it; renewed at "
        "half of it; seconds",
    )
    device_keys: Path | None = Field(
        None,
        description="folder with one NAME.pub per device; if given, updates not signed by their device are refused",
    )
    evaluator: list[str] = Field(
        [],
        description="additional name whose evaluations count; evaluator, evaluator-1, evaluator.COHORT … always count; "
        "repeat for more",
    )
    replace_line: bool = Field(
        False,
        description="replace another model line on the broker instead of refusing to start: devices drop that line and "
        "what they have learned on it",
    )
    shard: int = Field(0, ge=0, description="shard of devices that this aggregator serves")
    shards: int = Field(1, ge=1, le=65_536, description="number of aggregators that share the task")
    log_format: LogFormat = Field("text", description="log lines for people (text) or one JSON object per line (json)")
    log_level: LogLevel = Field("info", description="lowest level that is logged")
    health_file: Path | None = Field(None, description=f"{HEALTH_FILE_HELP}; default: LEDGER.health")
    metrics_file: Path | None = Field(
        None,
        description="metrics file for the textfile collector of Prometheus' node_exporter, such as "
        "/var/lib/fedkd/fedkd.prom",
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
                "--model-lifetime-seconds needs --signing-key FILE: only devices that check signatures check expiry"
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
        """Settings of the model line.

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
    """Creates a key that signs published models: a private file, and FILE.pub for the devices."""

    out: Path = Field(description="file for the private key; the public one becomes FILE.pub")


class MoveForwardSettings(CommandSettings):
    """Gives the newest model of a ledger a higher version number, after an older copy was restored."""

    ledger: Path = Field(Path("ledger.sqlite3"), description="the aggregator's durable state, one SQLite file")
    version: int = Field(
        ge=1,
        le=MOVED_VERSION_MAX,
        description="new number of the newest version, above every version that devices have seen",
    )
    shard: int = Field(0, ge=0, description="shard of devices that the ledger serves")


def health_file_of(ledger: Path) -> Path:
    """Default health file of an aggregator."""
    ledger = ledger.resolve()  # the same file for all links to a ledger
    return ledger.with_name(f"{ledger.name}.health")


class AggregatorHealthSettings(HealthSettings):
    """Tells whether the aggregator of a ledger runs and makes progress; exit code 2 if it does not."""

    ledger: Path = Field(Path("ledger.sqlite3"), description="the aggregator's ledger, unless it has a --health-file")


class StatusSettings(CommandSettings):
    """Shows the state of a ledger."""

    ledger: Path = Field(Path("ledger.sqlite3"), description="the aggregator's durable state, one SQLite file")
    json_output: bool = Field(False, alias="json", description="print JSON for programs")
