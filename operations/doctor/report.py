"""The doctor's report as lines for a terminal and as JSON."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from operations.doctor.finding import Finding, Verdict, exit_code
from wire_contract.program.plain_text import printable

WIDTH_CHARACTERS = 80
_VERDICT_CHARACTERS = 13
_NAME_CHARACTERS = 18
_INDENT = " " * (_VERDICT_CHARACTERS + _NAME_CHARACTERS)
_ORDER: Sequence[Verdict] = ("ok", "missing", "warning", "not checked")


def shown(finding: Finding, broker: str | None) -> str:
    """One finding as text.

    Args:
        finding: what was found.
        broker: the product as in `Remedies`, whose settings are shown; None or another: the settings of all products.
    """
    head = f"{finding.verdict:<{_VERDICT_CHARACTERS}}{finding.name:<{_NAME_CHARACTERS}}"
    lines = _wrapped(finding.line, first=head, rest=_INDENT)
    if finding.verdict != "ok":
        for advice in _advice(finding, broker):
            lines += _wrapped(advice, first=f"{_INDENT}→ ", rest=f"{_INDENT}  ")
    return "\n".join(lines)


def _advice(finding: Finding, broker: str | None) -> list[str]:
    settings = {name: setting for name, setting in finding.remedies.items() if name == broker} or finding.remedies
    remedies = [f"{name}: {setting}" for name, setting in settings.items()]
    return [advice for advice in (finding.advice, *remedies, finding.alternative) if advice]


def _wrapped(text: str, *, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        printable(text), WIDTH_CHARACTERS, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    ) or [first.rstrip()]


def summary(findings: Sequence[Finding], seconds: float) -> str:
    """The last two lines of the report."""
    counts = Counter(finding.verdict for finding in findings)
    parts = [f"{counts[verdict]} {verdict}" for verdict in _ORDER if counts[verdict]]
    outcome = {
        0: "Everything that the programs need is there.",
        1: "Something that the programs need is missing.",
        2: "The broker cannot be reached.",
    }[exit_code(findings)]
    return f"{', '.join(parts)}, in {seconds:.0f} s\n{outcome}"


def as_json(findings: Sequence[Finding], *, address: str, broker: str | None, seconds: float) -> Mapping[str, Any]:
    """The report as JSON. Keys are part of the interface and differ from some field names of `Finding`."""
    return {
        "broker": address,
        "kind": broker,
        "seconds": round(seconds, 3),
        "exit_code": exit_code(findings),
        "findings": [
            {
                "name": finding.name,
                "verdict": finding.verdict,
                "line": finding.line,
                "mend": finding.advice,
                "mending": dict(finding.remedies),
                "otherwise": finding.alternative,
            }
            for finding in findings
        ],
    }
