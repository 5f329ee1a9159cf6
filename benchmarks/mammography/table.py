"""The figures of `mammography` as text."""

from collections.abc import Mapping
from typing import Any

_NOTE = "In parentheses: 95 % intervals, patients drawn with replacement; differences on the same patients."


def table(figures: Mapping[str, Any]) -> str:
    """One block for each part."""
    effort = "" if figures["effort"] == 1 else f", effort {figures['effort']:g}"
    rows = [f"mammography: {len(figures['seeds'])} seeds, {figures['folds']} folds by patient{effort}"]
    if "seed_protocol" in figures:
        rows += _protocol(figures["seed_protocol"])
    split = figures.get("patient_split")
    for title, part in (("", split), (", further patients", (split or {}).get("further_patients"))):
        if part is not None:
            rows += _split(part, title)
    if "stragglers" in figures:
        rows += _stragglers(figures["stragglers"])
    return "\n".join([*rows, "", _NOTE, f"{figures['seconds']} s"])


def _protocol(part: Mapping[str, Any]) -> list[str]:
    rows = ["", f"seed_protocol, accuracy by row — {part['warning']}"]
    for name in ("rows_all", "rows_calc"):
        values = ", ".join(f"{way} {value:.3f}" for way, value in part[name].items() if way != "per_seed")
        rows.append(f"  {name} (leaky): {values}")
    for who in ("by_patient", "further_patients"):
        if who in part:
            values = ", ".join(f"{way} {_cell(value)}" for way, value in part[who].items())
            rows.append(f"  the same network {who.replace('_', ' ')}: {values}")
    return rows


def _split(part: Mapping[str, Any], title: str) -> list[str]:
    rows = ["", f"patient_split, AUC of lesion against normal{title}"]
    for how in ("centred", "off_centre", "off_centre_averaged"):
        rows.append(f"  {how}")
        rows += [f"    {arm:26} {_cell(value)}" for arm, value in part[how]["auc"].items()]
        rows += [f"    federated - {arm:14} {_cell(value)}" for arm, value in part[how]["federated_minus"].items()]
    return rows


def _stragglers(part: Mapping[str, Any]) -> list[str]:
    rows = ["", "stragglers: usual rounds until 95 % of the synchronous run's last AUC"]
    for way in ("asynchronous", "synchronous"):
        seconds = part[f"{way}_seconds"]
        rows.append(f"  {way:14} {'never' if seconds is None else f'{seconds:.0f}':>6}  AUC {part[f'{way}_auc']:.3f}")
    return rows


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
