"""`status`: what a ledger holds."""

import json
from pathlib import Path

import pytest

from aggregator.__main__ import main
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.records import batch_of
from tests.aggregator.commands.lines import line
from tests.aggregator.synthetic import (
    SETTINGS,
    T0,
    TASK,
    SyntheticDevice,
    begin,
)
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.messages import Evaluation


def test_status_of_a_ledger_on_which_nothing_ran(capsys: pytest.CaptureFixture[str]) -> None:
    """Once it said "version 0, updated 1970"."""
    Ledger(Path("ledger.sqlite3"), task=TASK).close()
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    assert "1970" not in text
    assert "version      none: the aggregator has never run on this ledger; start it with --initial-model" in text


def test_status_of_what_is_no_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such file" in line(capsys, "status", "--ledger", "missing")


def test_status_shows_what_the_ledger_holds(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("ledger.sqlite3")
    with Ledger(path, task=TASK) as ledger:
        model_line = begin(ledger)
        device = SyntheticDevice("watch")
        merged = device.payload(model_line)
        payloads = (merged, merged, b"nonsense", device.payload(model_line, base_digest=bytes(32)))
        judged = [model_line.judge(device.parsed, payload) for payload in payloads]
        evaluation = Evaluation(
            task=TASK,
            device="judge",
            version=0,
            digest=bytes(32),
            samples=3,
            metrics={"accuracy": 0.875, "\x1b[2J": 0.5},
        )
        ledger.commit_batch(batch_of(judged, [evaluation]), now=T0 + 60)
        # While the aggregator runs.
        assert main(["status"]) == 0
        text = capsys.readouterr().out
        assert main(["status", "--ledger", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
    assert text.splitlines() == [
        "task         toy",
        "labels       not known: the line began with an older version",
        "version      0",
        "devices      1",
        f"merged       1 updates, {len(merged)} bytes; 1 wait for the next version",
        "duplicates   1",
        "refused      2 (malformed 1, unknown_base 1)",
        "updated      2023-11-14T22:14:20+00:00",
        r"evaluation   version 0: accuracy 0.875, \x1b[2J 0.5",
    ]
    assert (found["merged"], found["duplicates"], found["refused"]) == (1, 1, 2)
    assert (found["task"], found["evaluation"]) == (SETTINGS.task, {"accuracy": 0.875, "\x1b[2J": 0.5})


def test_status_names_the_main_metric_and_its_direction_first(capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(Path("ledger.sqlite3"), task=TASK) as ledger:
        begin(ledger)
        for metrics, main_metric in (
            ({"accuracy": 0.5}, ACCURACY),
            ({"loss": 0.25, "perplexity": 1830.4}, MainMetric("perplexity", higher_is_better=False)),
        ):
            evaluation = Evaluation(
                task=TASK,
                device="judge",
                version=0,
                digest=bytes(32),
                samples=3,
                metrics=metrics,
                declared=main_metric,
            )
            ledger.commit_batch(batch_of([], [evaluation]), now=T0)
        assert main(["status"]) == 0
        text = capsys.readouterr().out
        assert main(["status", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
    assert text.splitlines()[-1] == "evaluation   version 0: perplexity 1830 (lower is better), loss 0.25"
    assert (found["main_metric"], found["higher_is_better"]) == ("perplexity", False)


def test_status_is_short_whatever_an_evaluator_says(capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(Path("ledger.sqlite3"), task=TASK) as ledger:
        begin(ledger)
        metrics = {f"{number:03}{'x' * 1000}": 0.5 for number in range(256)}
        evaluation = Evaluation(task=TASK, device="judge", version=0, digest=bytes(32), samples=3, metrics=metrics)
        ledger.commit_batch(batch_of([], [evaluation]), now=T0)
    assert main(["status"]) == 0
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown.endswith(", and 224 more (--json shows all)")
    assert len(shown) < 32 * 80


def test_status_says_how_many_devices_the_next_version_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("ledger.sqlite3")
    with Ledger(path, task=TASK) as ledger:
        model_line = begin(ledger)
        ledger.note_devices_min(3)

        def shown() -> list[str]:
            assert main(["status"]) == 0
            return [told for told in capsys.readouterr().out.splitlines() if told.startswith("missing")]

        assert shown() == [], "nobody waits"
        devices = [
            SyntheticDevice(name, incarnation=b"inc%05d" % number)
            for number, name in enumerate(("watch-1", "watch-1", "watch-2"))
        ]
        judged = [model_line.judge(device.parsed, device.payload(model_line)) for device in devices]
        ledger.commit_batch(batch_of(judged), now=T0 + 60)
        assert shown() == ["missing      1 more device for the next version (--devices-min)"]
        ledger.note_devices_min(2)
        assert shown() == []


def test_status_is_json_whatever_evaluators_say(capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(Path("ledger.sqlite3"), task=TASK) as ledger:
        begin(ledger)
        metrics = {"loss": 1.7e308}
        evaluations = [
            Evaluation(task=TASK, device=device, version=0, digest=bytes(32), samples=3, metrics=metrics)
            for device in ("evaluator", "evaluator-1")
        ]
        ledger.commit_batch(batch_of([], evaluations), now=T0)
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["evaluation"] == {"loss": 1.7e308}
