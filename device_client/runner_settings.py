"""What a device's loop is given, and how it ends."""

from dataclasses import dataclass, field

from device_client.presence import this_firmware
from wire_contract.compression.choice import EncodingChoice


@dataclass(frozen=True, kw_only=True)
class RunnerSettings:
    """Settings of one device."""

    encoding: EncodingChoice = "int8"
    """Encoding of the updates."""
    local_rounds_max: int = 4
    """Most rounds trained on one base. Chosen, not measured: more rounds drift towards one person's data, fewer leave a
    device idle."""
    retrain_after_seconds: float = 60.0
    """Pause before a further round on the same base. The aggregator's default `--version-seconds`: by then there
    usually is a newer model."""
    receipt_timeout_seconds: float = 30.0
    """How long to wait for a receipt before the update is sent again."""
    resend_delay_max_seconds: float = 300.0
    """The delay before sending again grows up to this."""
    duty_cycle: float = 1.0
    """Share of the training time that is spent computing, 0 < d ≤ 1."""
    traffic_seconds: float = 10.0
    """Shortest time between two `traffic` events."""
    firmware: str = field(default_factory=this_firmware)
    """Name and version of the program, published in the presence."""
    capability: dict[str, str] = field(default_factory=dict)
    """Capabilities of the device by name, published in the presence."""


@dataclass(frozen=True)
class Ended:
    """Why `run` returned."""

    reason: str
    """One line for a person."""
    refused: bool = False
    """The broker refused the very first connection, so trying again will not help."""
    next_line: str | None = None
    """The line to go on to; None: the device is to stop."""
