"""The doctor's findings, and the exit code: values, no probing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["ok", "missing", "warning", "not checked"]

Broker = Literal["mosquitto", "EMQX", "HiveMQ", "NATS"]

Remedies = Mapping[Broker, str]
"""The setting that remedies a problem, for each broker."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    """The name of the check."""
    verdict: Verdict
    """missing: something that the programs need; warning: they work, but with a drawback."""
    line: str
    """The result, in one sentence."""
    advice: str = ""
    """What to do on any broker, or on the client's side. In JSON: `mend`."""
    remedies: Remedies = field(default_factory=dict)
    """In JSON: `mending`."""
    alternative: str = ""
    """What may be done instead; shown last. In JSON: `otherwise`."""


REACHABLE = "reachable"

ALL_WELL, SOMETHING_MISSING, UNREACHABLE = 0, 1, 2


def exit_code(findings: Sequence[Finding]) -> int:
    """0: nothing is missing. 1: something is missing. 2: the broker could not be reached."""
    missing = {finding.name for finding in findings if finding.verdict == "missing"}
    if REACHABLE in missing:
        return UNREACHABLE
    return SOMETHING_MISSING if missing else ALL_WELL
