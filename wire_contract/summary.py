"""The recent history in an aggregator's status, for observers that connect later."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from wire_contract.limits import METRIC_MAX, SUMMARY_BUCKETS_MAX, SUMMARY_DEVICES_MAX, SUMMARY_EVALUATIONS_MAX
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.message_fields import OTHER, OUTCOMES, Count, Name, StatusText, Version


class MeasuredVersion(msgspec.Struct, frozen=True, array_like=True):
    """What one evaluator measured for one version."""

    version: Version
    evaluator: Name
    value: Annotated[float, msgspec.Meta(ge=-METRIC_MAX, le=METRIC_MAX)]
    """Of the main metric."""
    at: Annotated[float, msgspec.Meta(ge=0)]
    """Unix seconds at which the version was committed."""


class MeasuredAccuracy(msgspec.Struct, frozen=True, array_like=True):
    """A `MeasuredVersion` whose metric is accuracy: the only ones that programs of the first release know."""

    version: Version
    evaluator: Name
    accuracy: Annotated[float, msgspec.Meta(ge=0, le=1)]
    at: Annotated[float, msgspec.Meta(ge=0)]


class StalenessBucket(msgspec.Struct, frozen=True, array_like=True):
    """Number of merged updates whose staleness is at least `least`, and below that of the next bucket."""

    least: Count
    updates: Count


class SeenDevice(msgspec.Struct, frozen=True, array_like=True):
    """A device and the newest receipt for it."""

    device: Name
    outcome: StatusText
    """An `Outcome`, or `OTHER`."""
    staleness: Count
    """Of its newest merged update, in versions."""
    at: Annotated[float, msgspec.Meta(ge=0)]
    """Unix seconds of that receipt."""
    merged: Count
    """Its merged updates since the ledger was created."""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            msgspec.structs.force_setattr(self, "outcome", OTHER)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The history in brief, for observers that connect later. Newest first; older entries are left out."""

    at: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(name="at")
    """Unix seconds at which the summary was made."""
    since: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(name="a")
    """Unix seconds at which this aggregator started; figures that the ledger does not keep count from here."""
    accuracies: Annotated[tuple[MeasuredAccuracy, ...], msgspec.Meta(max_length=SUMMARY_EVALUATIONS_MAX)] = (
        msgspec.field(name="e", default=())
    )
    """Empty if the main metric is another one."""
    declared: MainMetric | msgspec.UnsetType = msgspec.field(name="mm", default=msgspec.UNSET)
    """The main metric, if it is not accuracy."""
    measured: (
        Annotated[tuple[MeasuredVersion, ...], msgspec.Meta(max_length=SUMMARY_EVALUATIONS_MAX)] | msgspec.UnsetType
    ) = msgspec.field(name="ev", default=msgspec.UNSET)
    """Evaluations by the declared metric. Programs of the first release do not know this key: they show no
    evaluation."""
    staleness: Annotated[tuple[StalenessBucket, ...], msgspec.Meta(max_length=SUMMARY_BUCKETS_MAX)] = msgspec.field(
        name="h", default=()
    )
    """Of all merged updates since the ledger was created."""
    devices: Annotated[tuple[SeenDevice, ...], msgspec.Meta(max_length=SUMMARY_DEVICES_MAX)] = msgspec.field(
        name="k", default=()
    )
    updates_per_minute: Count = msgspec.field(name="r", default=0)
    """Merged in the 60 seconds before `at`."""
    bytes_up: Count = msgspec.field(name="u", default=0)
    """Payload bytes of updates received: before `since` of the merged ones, after it of all."""
    bytes_down: Count = msgspec.field(name="w", default=0)
    """Payload bytes published since `since`; each message counts once, however many devices receive it."""

    @property
    def main(self) -> MainMetric:
        """The main metric."""
        return self.declared or ACCURACY

    @property
    def evaluations(self) -> tuple[MeasuredVersion, ...]:
        """The evaluations, by the main metric."""
        if self.declared:
            return self.measured or ()
        return tuple(MeasuredVersion(one.version, one.evaluator, one.accuracy, one.at) for one in self.accuracies)


def evaluation_fields(main: MainMetric, evaluations: Sequence[MeasuredVersion]) -> dict[str, Any]:
    """The fields of a summary that hold `evaluations` by this metric."""
    if main == ACCURACY:
        return {
            "accuracies": tuple(MeasuredAccuracy(one.version, one.evaluator, one.value, one.at) for one in evaluations)
        }
    return {"declared": main, "measured": tuple(evaluations)}
