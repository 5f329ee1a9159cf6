"""How far position, border, size, file, scanner and order alone predict the label (`check-task --shortcuts`)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from device_client.data.leakage import is_image
from device_client.scores.intervals import drawn_scores, interval
from device_client.scores.ranking import auc, auc_of, tally
from device_client.task import Data, Examples, Task, inputs_of, targets_of
from device_client.task.batches import joined, leaves, size_of
from device_client.task.batching import collated, evaluation_batches
from device_client.task.examples import is_map_dataset
from device_client.trial import probes
from device_client.trial.probes import AUC_MIN, Shortcut
from device_client.trial.trial import Trial

ROWS_MAX = 2000
"""Rows that are looked at, spread evenly over all data."""
SECONDS_MAX = 30.0
"""Time for reading them. Chosen."""
_BATCH = 64
_EXAMPLES_MIN = 10
"""Of a class and of the rest; below, nothing is said about it."""

REMEDIES: Mapping[str, str] = {
    "centre": "what is looked for stands in the middle of the images; use random windows, or cut all classes alike",
    "position": "the bright part stands elsewhere in one class; use random windows, or cut all classes alike",
    "border": "the edges of the images differ; cut them off, or fill them alike",
    "size": "images are padded differently; bring all to one size by cutting, not by padding",
    "brightness": "images of one class are brighter or richer in contrast; scale each to the same mean and spread, "
    "unless that is what is to be learned",
    "padding": "windows of one class are filled up more; cut all to the same length",
    "order": "rows are sorted by class; harmless in training, which shuffles, but never split by row number",
}
_OF_AN_ATTRIBUTE = (
    "classes differ in how they were recorded or stored; balance them over its values, or report by value"
)


def find_shortcuts(trial: Trial) -> str:
    """Probes the rows of all data that were loaded."""
    task = trial.task
    teacher = [] if trial.teacher_data is None else [trial.teacher_data]
    rows = _Rows.of([*trial.data.values(), trial.held_out, *teacher], trial)
    targets = _targets(task, rows.targets)
    if not targets:
        return "none can be looked for: the targets are neither classes, nor labels, nor one number"
    persons = rows.names or tuple(map(str, range(len(rows.places))))
    found = [
        shortcut
        for probe, remedy, features in _features(trial, rows)
        if (shortcut := _best(probe, remedy, features, targets, np.array(persons))) is not None
    ]
    trial.shortcuts = sorted(found, key=lambda one: -one.auc)
    by = f"{len(set(persons)):,} persons" if rows.names else "rows, because persons are not given"
    if not rows.names:
        trial.note("persons are not given, so a probe may recognise a person, and intervals are too narrow")
    for shortcut in trial.shortcuts:
        if shortcut.is_strong:
            trial.note(shortcut.line)
    if not found:
        return f"none can be looked for: fewer than {_EXAMPLES_MIN} examples of each class, of {len(persons):,} rows"
    best = next((one for one in trial.shortcuts if one.probe != "order"), trial.shortcuts[0])
    return (
        f"{len(persons):,} rows by {by}; chance is AUC 0.50, and the best of {len(found)} probes is {best.probe} with "
        f"{best.auc:.2f} ({best.low:.2f} to {best.high:.2f}): "
        + (
            "a network shows that it sees more only above that"
            if best.is_strong
            else f"no shortcut (from AUC {AUC_MIN:.2f} on)"
        )
    )


def shortcut_table(shortcuts: Sequence[Shortcut]) -> str:
    """All probes, the best first."""
    width = max(len(one.probe) for one in shortcuts)
    return "\n".join(
        [
            f"{'probe':<{width}}  AUC   95 % interval  predicts",
            *(
                f"{one.probe:<{width}}  {one.auc:.2f}  {one.low:.2f} to {one.high:.2f}   {one.target}"
                for one in shortcuts
            ),
        ]
    )


def shortcuts_as_json(trial: Trial) -> Mapping[str, Any]:
    """All probes, the best first; empty if they were not asked for."""
    if not trial.with_shortcuts:
        return {}
    probed = [
        {
            "probe": one.probe,
            "target": one.target,
            "auc": round(one.auc, 4),
            "low": round(one.low, 4),
            "high": round(one.high, 4),
            "chance": 0.5,
            "shortcut": one.is_strong,
            "remedy": one.remedy if one.is_strong else None,
        }
        for one in trial.shortcuts
    ]
    return {"shortcuts": probed}


def _best(
    probe: str,
    remedy: str,
    features: probes.Array,
    targets: Mapping[str, npt.NDArray[np.bool_]],
    persons: npt.NDArray[Any],
) -> Shortcut | None:
    """The class that the features predict best; None: no class has enough examples."""
    found = []
    for target, positive in targets.items():
        if min(int(positive.sum()), int((~positive).sum())) >= _EXAMPLES_MIN:
            scores = probes.cross_validated(features, positive, persons)
            found.append((auc(scores, positive), target, scores))
    if not found:
        return None
    value, target, scores = max(found, key=lambda one: one[0])
    positive = targets[target]
    low, high = interval(drawn_scores(lambda weights: auc_of(tally(scores, positive, weights)), persons))
    return Shortcut(probe=probe, target=target, auc=value, low=low, high=high, remedy=remedy)


def _targets(task: Task, targets: Any) -> dict[str, npt.NDArray[np.bool_]]:
    """Each class against all others, each label, or one number above its median; empty: none of these."""
    parts = list(leaves(targets))
    if len(parts) != 1:
        return {}
    values = parts[0].numpy()
    if task.objective.kind == "classification":
        classes = {f"class {name}": values == index for index, name in enumerate(task.labels)}
        return dict(list(classes.items())[1:]) if len(classes) == 2 else classes  # noqa: PLR2004 — one is enough
    if task.objective.kind == "multi_label":
        return {f"label {name}": values[:, index] > 0 for index, name in enumerate(task.labels)}
    if task.objective.kind == "regression" and values[0].size == 1:
        values = values.reshape(-1)
        return {"a target above the median": values > np.median(values)}
    return {}


def _features(trial: Trial, rows: "_Rows") -> Iterator[tuple[str, str, probes.Array]]:
    """Name, remedy and features of each probe that there is something for."""
    for number, tensor in enumerate(leaves(rows.inputs)):
        values = (tensor.float() if tensor.dtype.is_floating_point else tensor).numpy()
        several = f" of input {number + 1}" if number else ""
        if is_image(values[0]):
            for probe, features in probes.image_features(values).items():
                yield f"{probe}{several}", REMEDIES[probe], features
        elif values.ndim > 1 and values.shape[-1] > 1:
            yield f"padding{several}", REMEDIES["padding"], probes.padding(values)
            constant = probes.constant_columns(values)
            if constant:
                trial.note(f"{constant:,} of {values[0].size:,} numbers of an input are the same in all rows")
    for name, attribute in rows.attributes.items():
        yield f"attribute {name}", _OF_AN_ATTRIBUTE, probes.attribute_features(attribute)
    yield "order", REMEDIES["order"], probes.order_features(rows.places)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of all data together."""

    inputs: Any
    targets: Any
    names: tuple[str, ...]
    """Their persons; empty: not known for all."""
    attributes: Mapping[str, npt.NDArray[Any]]
    """Those that all data has."""
    places: npt.NDArray[np.float64]
    """Of each row in its data, 0 to 1."""

    @classmethod
    def of(cls, parts: Sequence[Data], trial: Trial) -> "_Rows":
        ends, share = trial.monotonic() + SECONDS_MAX, max(1, ROWS_MAX // len(parts))
        batches, names, places = [], list[str](), list[float]()
        kept: dict[str, list[npt.NDArray[Any]]] = {}
        for number, part in enumerate(parts):
            batch, chosen, count = _read(part, share, lambda: trial.monotonic() > ends)
            batches.append(batch)
            places += [row / max(1, count - 1) for row in chosen]
            persons = getattr(part, "persons", None)
            names += [] if persons is None else [str(persons[row]) for row in chosen]
            for name, values in (getattr(part, "attributes", None) or {}).items():
                if len(kept.setdefault(name, [])) == number:
                    kept[name].append(np.asarray(values)[chosen])
        return cls(
            inputs=joined([inputs_of(batch) for batch in batches]),
            targets=joined([targets_of(batch) for batch in batches]),
            names=tuple(names) if len(names) == len(places) else (),
            attributes={name: np.concatenate(rows) for name, rows in kept.items() if len(rows) == len(parts)},
            places=np.array(places),
        )


def _read(part: Data, share: int, is_late: Callable[[], bool]) -> tuple[Any, list[int], int]:
    """Some rows as a batch, their numbers, and how many rows there are."""
    if isinstance(part, Examples):
        chosen = _spread(len(part), share)
        return part.batch(torch.tensor(chosen)), chosen, len(part)
    if is_map_dataset(part):
        read: list[Any] = []
        chosen = _spread(len(part), share)
        for row in chosen:
            read.append(part[row])
            if is_late():
                break
        return collated(read), chosen[: len(read)], len(part)
    batches, count = [], 0
    for batch in evaluation_batches(part, min(share, _BATCH)):
        batches.append(batch)
        count += size_of(batch)
        if count >= share or is_late():
            break
    return joined(batches), list(range(count)), count


def _spread(count: int, share: int) -> list[int]:
    """Up to `share` of the numbers below `count`, evenly spread."""
    return [number * count // min(count, share) for number in range(min(count, share))]
