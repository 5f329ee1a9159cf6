"""The report: one self-contained HTML file. All its figures were measured in this run."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from string import Template

from simulators.reporting.html_tables import html_table
from simulators.reporting.metric_text import title, value_text, words
from simulators.reporting.plots import plots
from simulators.reporting.results import LAST_VERSIONS, MACRO_F1, DeviceResults, RunResults
from simulators.reporting.scores.classification import section
from simulators.reporting.scores.seen_images import seen_section
from wire_contract.main_metric import ACCURACY

_KB = 1_000


def write_report(results: RunResults, path: Path) -> None:
    """Writes the report to `path`."""
    path.write_text(page(results), encoding="utf-8")


def page(results: RunResults) -> str:
    """The report as HTML."""
    template = Template(files("simulators.reporting").joinpath("report.html").read_text(encoding="utf-8"))
    told = {
        "title": escape(f"{_text(results, results.value)} on {results.task}"),
        "metric": escape(title(results.main)),
        "task": escape(results.task),
        "broker": escape(f"broker {results.broker}"),
        "seed": str(results.seed),
        "headline": escape(headline(results)),
        "lead": escape(lead(results)),
        "kpis": _kpis(results),
        "held_out": escape(_held_out(results)),
        "evaluated": str(len({one.version for one in results.evaluations})),
        "published": str(len(results.versions)),
        "bytes_caption": escape(_bytes_caption(results)),
        "staleness_caption": escape(_staleness(results)),
        "devices": _devices(results),
        "wire_caption": escape(_wire_caption(results)),
        "wire": _wire(results),
        "person": escape(results.nouns.person),
        "owner": escape(results.nouns.owner),
        "seen": seen_section(results.seen) if results.seen else "",
        "classification": "" if results.scored is None else section(results.scored),
        "reading": _reading(results),
        "footer": escape(_footer(results)),
    }
    return template.substitute(told, **plots(results))


def headline(results: RunResults) -> str:
    """The result in one sentence."""
    value, ceiling, floor = results.value, results.baselines.pooled(), results.baselines.local_mean()
    compared = []
    if ceiling is not None:
        compared.append(f"{_compared(results, value, ceiling)} training on pooled data")
    if floor is not None:
        compared.append(f"{_compared(results, value, floor)} training on one {results.nouns.owner}'s data")
    devices, shown = len(results.devices), _text(results, value)
    what_has_one = results.nouns.owner if results.nouns.owner == "hospital" else "device"
    what = (
        f"that reaches {shown} accuracy on unseen {results.nouns.person}s"
        if results.main == ACCURACY
        else f"whose {words(results.main)} on unseen {results.nouns.person}s is {shown} ({results.main.direction})"
    )
    return (
        f"{results.nouns.count(devices, what_has_one).capitalize()} trained one model {what}"
        f"{': ' if compared else ''}{', '.join(compared)}."
    )


def lead(results: RunResults) -> str:
    """What was done, and whether every update was merged exactly once."""
    audit = results.audit
    exceptions = [
        *([f"{len(audit.refused)} refused"] if audit.refused else []),
        *([f"{audit.kept} still waiting in an outbox"] if audit.kept else []),
    ]
    aside = f" ({', '.join(exceptions)})" if exceptions else ""
    agrees = (
        f"The devices sent {len(audit.sent)} updates{aside}. Each"
        f"{' of the others' if exceptions else ''} was merged exactly once: the devices' outboxes and the aggregator's"
        " ledger agree."
        if audit.agrees
        else f"But {audit}."
    )
    seconds = results.stopped_at - results.started_at
    return (
        f"{results.version} versions in {seconds:.0f} s, without rounds to wait for, while devices were offline,"
        f" killed, held by their upload policy, or slow. {agrees}{_missing(results)}"
    )


def _missing(results: RunResults) -> str:
    """A sentence about the missing baselines and the reason."""
    if not results.missing:
        return ""
    return f" Missing: {', '.join(results.missing)} ({results.baselines.given_up or 'not measured'})."


def _kpis(results: RunResults) -> str:
    audit, baselines, wire, nouns = results.audit, results.baselines, results.wire, results.nouns
    ratio = f"{wire.teacher_parameters / wire.student_parameters:.1f} times" if wire.student_parameters else "-"
    rows: Sequence[tuple[str, str, str]] = (
        ("federated", _text(results, results.value), f"{words(results.main)} of version {results.final.version}"),
        ("ceiling", _text(results, baselines.pooled()), "pooled data: the same student, trained centrally"),
        (
            "floor",
            _text(results, baselines.local_mean()),
            f"one {nouns.owner} alone, mean over {_measured(results)}",
        ),
        (
            "good" if audit.agrees else "bad",
            f"{len(audit.merged)} / {len(audit.sent - audit.refused)}",
            f"updates merged / sent; {results.duplicates} duplicates, {results.refused} refused",
        ),
        (
            "",
            f"{results.update_payload_bytes / _KB:.1f} kB",
            f"per update; {results.bytes_up / _KB:,.0f} kB up and {results.bytes_down / _KB:,.0f} kB down in total",
        ),
        (
            "good" if wire.is_student_only else "bad",
            "0 bytes" if wire.is_student_only else "suspect",
            f"of the teacher were sent; it is {ratio} the student's size",
        ),
    )
    return "\n".join(
        f'<div class="kpi {kind}"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for kind, value, what in rows
    )


def _staleness(results: RunResults) -> str:
    values = results.staleness
    if not values:
        return "No update was merged."
    fresh = sum(value == 0 for value in values) / len(values)
    return f"Mean {fmean(values):.1f} versions, at most {max(values)}; {fresh:.0%} started from the newest version."


def _bytes_caption(results: RunResults) -> str:
    if results.bytes_per_point is None:
        return ""
    return f"{results.bytes_per_point / _KB:.1f} kB per percentage point of {words(results.main)} gained."


def _devices(results: RunResults) -> str:
    merged, shares = results.merged_by_device(), results.weight_shares()

    def row(device: DeviceResults) -> Sequence[str]:
        stale = [one.staleness for one in results.contributions if one.device == device.name]
        alone = results.baselines.local.get(device.name, {}).get(results.main.name)
        return (
            device.name,
            device.title,
            str(device.examples),
            f"{device.duty_cycle:.0%}",
            str(merged[device.name]),
            f"{shares[device.name]:.1%}",
            f"{fmean(stale):.1f} / {max(stale)}" if stale else "-",
            str(device.timeline.starts),
            f"{device.update_bytes / merged[device.name]:,.0f}" if merged[device.name] else "-",
            f"{device.bytes_up / _KB:,.0f}",
            f"{device.bytes_down / _KB:,.0f}",
            "-" if alone is None else _text(results, alone),
        )

    heads = (
        *("device", "profile", "examples", "duty cycle", "updates merged", "share of weight"),
        *("staleness mean / max", "starts", "bytes per update", "kB up", "kB down", f"{words(results.main)} alone"),
    )
    return html_table(heads, [row(device) for device in results.devices], text=1)


def _wire_caption(results: RunResults) -> str:
    wire = results.wire
    if not wire.teacher_parameters:
        return "Payloads counted by a passive MQTT client. This task has no teacher."
    verdict = "so no message can have contained it" if wire.is_student_only else "so this is NOT ruled out"
    return (
        f"Payloads counted by a passive MQTT client. The largest one ({wire.largest_kind}) had {wire.largest_bytes:,}"
        f" bytes. The teacher has {wire.teacher_parameters:,} parameters, {results.teacher_bytes:,} bytes as a file and"
        f" {wire.teacher_bytes_min:,} at four bits per parameter; {verdict}. Every update was decoded:"
        f" it had at most {wire.numbers_max:,} values, and the student has {wire.student_parameters:,};"
        f" {wire.foreign_updates} had another layout."
    )


def _wire(results: RunResults) -> str:
    rows = [
        (kind, _KINDS.get(kind, ""), f"{flow.messages:,}", f"{flow.size_bytes:,}")
        for kind, flow in sorted(results.wire.by_kind.items(), key=lambda item: -item[1].size_bytes)
    ]
    return html_table(("kind", "from → to", "messages", "payload bytes"), rows, text=1)


_KINDS = {
    "chunk": "aggregator → devices that need it: parts of a snapshot",
    "model": "aggregator → all: manifests with the newest delta",
    "delta": "aggregator → devices that missed a version: the difference to the next one",
    "update": "device → aggregator",
    "receipt": "aggregator → device",
    "presence": "device (its will: the broker)",
    "evaluation": "evaluator → aggregator",
    "aggregator": "aggregator: its status",
}


def _reading(results: RunResults) -> str:
    epochs, devices = results.baselines.epochs, len(results.devices)
    stopped = results.stopped_at - results.started_at
    teacher = results.baselines.teacher.get(results.main.name)
    alone = f"; it reaches {_text(results, teacher)} itself" if teacher is not None else ""
    measured = (
        f"Share of {results.nouns.example}s classified correctly,"
        if results.main == ACCURACY
        else f"The task's main metric, {results.main.direction}; measured"
    )
    entries = {
        "Pooled data": f"The same student with the same initial weights and teacher, trained on the data of all "
        f"{devices} devices in one place: {epochs} passes, as many as the federation planned.{_macro_f1(results)}",
        f"One {results.nouns.owner} alone": f"The same for each device with its own data only, {epochs} passes each.",
        title(results.main): f"{measured} on {_held_out(results)}. The mean of the last {LAST_VERSIONS} evaluated "
        f"versions is {_text(results, results.value_of_last())}.",
        "Teacher": f"A larger network, pre-trained on further {results.nouns.person}s (neither on devices nor tested"
        f" on){alone}. Each device has it, and none sends it.",
        "Version and staleness": f"A version is published when {results.updates_per_version} devices have contributed. "
        "An update's staleness is the number of versions published since the one it started from; stale updates get "
        "less weight, but are never discarded.",
        "Offline, killed, held": "Offline: only this device's connection was cut; the broker kept running. Killed: "
        "SIGKILL during training, then restarted from its state. Held: its policy allows uploads only while charging, "
        "or with a compliance approval.",
        "After training stopped": f"At {stopped:.0f} s the devices were told to stop training, which each notices "
        "within a second. Updates still in an outbox were then sent and merged, which can add versions.",
    }
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in entries.items())


def _footer(results: RunResults) -> str:
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in results.phases.items())
    day = datetime.fromtimestamp(results.started_at, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"One run on one machine, {day}; {results.seconds:.0f} s: {phases}. summary.json has the same figures."


def _held_out(results: RunResults) -> str:
    examples = f"{results.held_out_examples:,} {results.nouns.example}s"
    persons = results.held_out_persons
    return f"{examples} of {results.nouns.count(persons, results.nouns.person)}" if persons else examples


def _measured(results: RunResults) -> str:
    """How many devices have a baseline of their own."""
    measured, devices = len(results.baselines.local), len(results.devices)
    return "the devices" if measured == devices else f"{measured} of {devices} devices"


def _macro_f1(results: RunResults) -> str:
    """A sentence about macro F1 beside another main metric, if it was measured."""
    federated = results.final.metrics.get(MACRO_F1)
    if federated is None or results.main.name == MACRO_F1:
        return ""
    pooled = results.baselines.pooled(MACRO_F1)
    return f" Macro F1 {'missing' if pooled is None else f'{pooled:.3f}'}; federated {federated:.3f}."


def _text(results: RunResults, value: float | None) -> str:
    """A value of the main metric."""
    return "missing" if value is None else value_text(value, as_share=results.is_share)


def _compared(results: RunResults, value: float, other: float) -> str:
    """A comparison of two values of the main metric as words, to be followed by what `other` belongs to."""
    if not results.is_share:
        if _text(results, value) == _text(results, other):
            return "equal to"
        is_better = results.main.best([value, other]) == value
        return f"{_text(results, abs(value - other))} {'better' if is_better else 'worse'} than"
    points = abs(value - other) * 100
    if points < 0.05:  # noqa: PLR2004 — what one decimal cannot show
        return "equal to"
    return f"{points:.1f} points {'above' if value > other else 'below'}"
