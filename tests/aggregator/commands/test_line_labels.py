"""The labels of a line: from the initial model's file to ledger, manifest and `status`, and what is refused."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from aggregator.__main__ import continue_line, main
from aggregator.initial_model import InitialModelError, read_initial_model
from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.records import row_of
from aggregator.ledger.restoring import restore
from aggregator.model_line import ModelLine, announcement, opening_release
from tests.aggregator.commands.lines import run_line
from tests.aggregator.synthetic import LAYOUT, SETTINGS, T0, TASK, begin, initial_weights, write_initial_model
from wire_contract.line_description import LineDescription, describe

WORDS = describe(("sit", "walk", "run", "lie"), {"chosen": np.arange(4)})
SORTED = describe(("lie", "run", "sit", "walk"), {"chosen": np.arange(4)})
DRAWN = describe(("sit", "walk", "run", "lie"), {"chosen": np.arange(4)[::-1]})
LEDGER = Path("ledger.sqlite3")


def described_file(path: Path, line: LineDescription) -> Path:
    tensors = {name: view.copy() for name, view in LAYOUT.views(initial_weights()).items()}
    order = json.dumps([[spec.name, list(spec.shape)] for spec in LAYOUT.tensors])
    metadata = {"task": TASK, "layout": order, "role": "initial-model", "line": msgspec.json.encode(line).decode()}
    save_file(tensors, path, metadata=metadata)
    return path


def published(line: ModelLine) -> LineDescription | None:
    return announcement(line.settings, line.release, description=line.description).manifest.line


def begun(line: LineDescription | None = WORDS) -> None:
    with Ledger(LEDGER, task=TASK) as ledger:
        first = opening_release(SETTINGS, LAYOUT, initial_weights(), published_at=T0)
        ledger.begin_line(row_of(first), LAYOUT, initial_weights(), line)


def test_the_file_says_what_stands_in_every_manifest() -> None:
    initial = read_initial_model(described_file(Path("m"), WORDS), task=TASK)
    assert initial.line == WORDS
    begun(initial.line)
    with Ledger(LEDGER, task=TASK) as ledger:
        line = restore(ledger, SETTINGS)
        assert published(line) == WORDS
    with Ledger(LEDGER, task=TASK) as ledger:
        assert published(restore(ledger, SETTINGS)) == WORDS, "after a restart, too"


def test_a_ledger_of_before_stays_without_labels() -> None:
    with Ledger(LEDGER, task=TASK) as ledger:
        assert published(begin(ledger)) is None
        continue_line(ledger, write_initial_model(Path("m")), task=TASK)
        assert ledger.description() is None


def test_a_ledger_of_before_takes_its_labels_from_a_newer_file() -> None:
    with Ledger(LEDGER, task=TASK) as ledger:
        begin(ledger)
        continue_line(ledger, described_file(Path("m"), WORDS), task=TASK)
        assert published(restore(ledger, SETTINGS)) == WORDS
        continue_line(ledger, described_file(Path("m"), WORDS), task=TASK)
        with pytest.raises(InitialModelError, match="the same names in another order"):
            continue_line(ledger, described_file(Path("m"), SORTED), task=TASK)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (SORTED, "the file's labels are (lie, run, sit, walk); the ledger's are (sit, walk, run, lie)"),
        (DRAWN, "buffer chosen has other values in the file than in the ledger"),
    ],
    ids=["labels", "buffer"],
)
def test_an_initial_model_of_another_line_is_refused(
    capsys: pytest.CaptureFixture[str], line: LineDescription, said: str
) -> None:
    begun()
    described_file(Path("other"), line)
    told = run_line(capsys, "--initial-model", "other")
    assert said in told
    assert "a new task name, or a new ledger" in told


def test_status_shows_the_labels(capsys: pytest.CaptureFixture[str]) -> None:
    begun()
    assert main(["status", "--ledger", str(LEDGER)]) == 0
    assert "labels       sit, walk, run, lie" in capsys.readouterr().out.splitlines()
    assert main(["status", "--ledger", str(LEDGER), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["label_count"], shown["labels"]) == (4, ["sit", "walk", "run", "lie"])


def test_a_description_that_cannot_be_read_is_damage() -> None:
    begun()
    with closing(sqlite3.connect(LEDGER)) as db, db:
        db.execute("UPDATE meta SET value = x'c1' WHERE key = 'line'")
    with Ledger(LEDGER, task=TASK) as ledger, pytest.raises(LedgerError, match="is damaged"):
        ledger.description()


def test_a_file_with_a_broken_description_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    described_file(Path("m"), WORDS)
    tensors = {name: view.copy() for name, view in LAYOUT.views(initial_weights()).items()}
    order = json.dumps([[spec.name, list(spec.shape)] for spec in LAYOUT.tensors])
    save_file(tensors, Path("m"), metadata={"task": TASK, "layout": order, "role": "initial-model", "line": "{"})
    assert "initial model m: " in run_line(capsys, "--initial-model", "m")
