"""The training methods (arms) that the communication benchmark compares."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aggregator.model_line import DELTA_BYTES
from benchmarks.learning import SERVER_RATE, UNCOMPRESSED, updates_per_version
from device_client.settings import UPDATE_BYTES
from simulators.world.server import Rules, unbounded
from wire_contract.compression.choice import LowRankEnergy, TopK
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.limits import DELTA_BYTES_MAX

BUDGETS = (384, 1_024, 4_096)
"""Further budgets in bytes, for updates and deltas."""
TOP_SHARE = 0.03
"""Chosen: it takes fewer bytes than the smallest budget (`docs/experiments.md`, Bound of the residual)."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One method."""

    letter: str
    """Label in tables and plots; (a) is the reference for savings."""
    name: str
    says: str
    network: Literal["student", "teacher"] = "student"
    """Which network is federated."""
    mutual: bool = False
    """Each device trains its own teacher together with the student; otherwise the teacher is frozen."""
    synchronous: bool = False
    rules: Rules


def arms(devices: int) -> Sequence[Arm]:
    """All methods."""

    def asynchronous(
        update: CompressionTarget | TopK | Literal["int8"], delta: CompressionTarget | TopK | Literal["int8"]
    ) -> Rules:
        return Rules(
            updates_per_version=updates_per_version(devices),
            server_rate=SERVER_RATE,
            update_encoding=update,
            delta_encoding=delta,
        )

    def planned(update_bytes: int, delta_bytes: int) -> Rules:
        return asynchronous(CompressionTarget(bytes_max=update_bytes), CompressionTarget(bytes_max=delta_bytes))

    return (
        Arm(
            letter="a",
            name="fedavg_teacher",
            says="FedAvg of the teacher, float32",
            network="teacher",
            synchronous=True,
            rules=UNCOMPRESSED,
        ),
        Arm(
            letter="b",
            name="fedavg_student",
            says="FedAvg of the student, float32",
            synchronous=True,
            rules=UNCOMPRESSED,
        ),
        Arm(
            letter="c",
            name="fedkd",
            says="FedKD: mutual distillation, low rank both ways",
            mutual=True,
            synchronous=True,
            rules=unbounded(
                Rules(
                    update_encoding=LowRankEnergy(versions=1.0),  # the number of rounds is filled in later
                    delta_encoding=LowRankEnergy(versions=1.0),
                    delta_message_bytes_max=DELTA_BYTES_MAX,  # its deltas have about 60 kB
                    model_encoding="float32",
                    error_feedback=False,
                )
            ),
        ),
        Arm(
            letter="d",
            name="ours",
            says=f"ours at default: {UPDATE_BYTES} B up, {DELTA_BYTES} B down, error feedback",
            rules=planned(UPDATE_BYTES, DELTA_BYTES),
        ),
        *(
            Arm(
                letter="e",
                name=f"ours_{budget}",
                says=f"ours within {budget} B up and down",
                rules=planned(budget, budget),
            )
            for budget in BUDGETS
        ),
        Arm(letter="f", name="int8", says="int8 alone, both ways", rules=asynchronous("int8", "int8")),
        Arm(
            letter="f",
            name="top_k",
            says=f"top {TOP_SHARE:.0%} alone, both ways",
            rules=asynchronous(TopK(share=TOP_SHARE), TopK(share=TOP_SHARE)),
        ),
    )
