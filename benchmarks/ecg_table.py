"""The figures of `ecg` as text."""

from collections.abc import Mapping
from typing import Any

from device_client.tasks.ecg import MEASURED

_NOTE = (
    "Intervals: 95 %, patients drawn with replacement. Shares of classes are those of the data (at most 350 normal "
    "beats a record), not of a population."
)


def table(figures: dict[str, Any]) -> str:
    """One block for each set of test persons."""
    budget = (
        f"ecg: {figures['devices']} devices, {figures['seeds']} seeds, {figures['versions']} versions of "
        f"{figures['updates_per_version']} updates = {figures['epochs']} epochs over the data for each method; student "
        f"{figures['student_parameters']:,} parameters; {figures['seconds']} s"
    )
    rows = [budget]
    for who, parts in figures["tested"].items():
        for part in parts:
            rows += [
                "",
                *_block("persons held out" if figures["hold_out"] else f"{who} persons", part, figures["labels"]),
            ]
    return "\n".join([*rows, "", _NOTE])


def _block(title: str, part: Mapping[str, Any], labels: tuple[str, ...]) -> list[str]:
    without = f" without {', '.join(part['without'])}" if part["without"] else ""
    beats = " ".join(f"{name} {count:,}" for name, count in part["beats"].items())
    arms = part["arms"]
    rows = [
        f"{title}{without}: {part['patients']} patients, beats {beats}",
        " " * 14 + "".join(f"{a:26}" for a in arms),
    ]
    names = [("accuracy", "accuracy"), (f"macro F1 {' '.join(MEASURED)}", "macro_f1")]
    for label in labels:
        names += [(f"recall {label}", f"recall_{label}"), (f"F1 {label}", f"f1_{label}")]
    for shown, name in names:
        cells = [_cell(arms[arm].get(name)) for arm in arms]
        if any(cell.strip() for cell in cells):
            rows.append(f"  {shown:16}"[:18].ljust(18) + "".join(f"{cell:26}" for cell in cells))
    return [row.rstrip() for row in rows]


def _cell(value: Mapping[str, float] | None) -> str:
    return "" if value is None else f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
