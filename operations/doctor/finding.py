"""What the doctor finds, and what mends it: values and tables, no probing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["ok", "missing", "warning", "not checked"]

Broker = Literal["mosquitto", "EMQX", "HiveMQ", "NATS"]

Remedies = Mapping[Broker, str]
"""The setting that mends it, in each broker's own words."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    """What was looked at."""
    verdict: Verdict
    """missing: the contract needs it; warning: it works, and somebody should know."""
    line: str
    """What was seen, in one sentence."""
    advice: str = ""
    """What to do on any broker, or on the side of whoever asked."""
    remedies: Remedies = field(default_factory=dict)
    alternative: str = ""
    """What may be done instead; told last."""


REACHABLE = "reachable"

ALL_WELL, SOMETHING_MISSING, UNREACHABLE = 0, 1, 2


def exit_code(findings: Sequence[Finding]) -> int:
    """0: all that is needed is there. 1: something is missing. 2: the broker could not be reached."""
    missing = {finding.name for finding in findings if finding.verdict == "missing"}
    if REACHABLE in missing:
        return UNREACHABLE
    return SOMETHING_MISSING if missing else ALL_WELL
