"""`begin-line` and `close-line`: complete or not at all, and harmless when repeated."""

import stat
from pathlib import Path

import pytest

import aggregator.lines.begin as begin_module
from aggregator.__main__ import main
from aggregator.ledger.closing import close_line
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_totals
from aggregator.lines.begin import LineError, begin_next_line
from aggregator.lines.ledgers import ledgers_of, path_of_line
from tests.aggregator.lines.lines_stage import NEW, NEWER, NEXT, LinesStage
from tests.aggregator.synthetic import LAYOUT, T0, TASK, begin, write_initial_model


class Kill(BaseException):
    """The process dies here."""


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite3"
    with Ledger(path, task=TASK) as opened:
        begin(opened)
    return path


def begin_line(ledger: Path, file: Path) -> None:
    begin_next_line(ledger, task=TASK, initial_model=file, encoding="float16", unix=lambda: T0)


def test_the_next_line_has_a_ledger_of_its_own_beside_the_first(ledger: Path, tmp_path: Path) -> None:
    begin_line(ledger, write_initial_model(tmp_path / "new.safetensors", NEW))
    begin_line(ledger, write_initial_model(tmp_path / "newer.safetensors", NEWER))
    assert [path.name for path in ledgers_of(ledger)] == ["ledger.sqlite3", "ledger.2.sqlite3", "ledger.3.sqlite3"]
    assert [read_totals(path).task for path in ledgers_of(ledger)] == [TASK, NEXT, f"{TASK}.3"]
    with Ledger(path_of_line(ledger, 2), task=NEXT) as opened:
        assert opened.layout() == NEW
    mode = stat.S_IMODE(path_of_line(ledger, 2).stat().st_mode)
    assert mode == 0o600, "a ledger shows which devices take part"


def test_a_link_to_the_ledger_leads_to_the_same_lines(ledger: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "current"
    link.parent.mkdir()
    link.symlink_to(ledger)
    assert path_of_line(link, 2) == path_of_line(ledger, 2)


def test_killed_before_the_end_it_has_done_nothing(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_initial_model(tmp_path / "new.safetensors", NEW)

    def killed(*_: object) -> None:
        raise Kill

    for step in ("sync_file", "move_to_new_name"):
        with monkeypatch.context() as patched:
            patched.setattr(begin_module, step, killed)
            with pytest.raises(Kill):
                begin_line(ledger, file)
        assert ledgers_of(ledger) == [ledger]
    (tmp_path / ".ledger.2.sqlite3-0123456789ab.unfinished").write_bytes(b"left by a program that was killed")
    begin_line(ledger, file)
    assert not list(tmp_path.glob(".*")), "nothing is left over"


def test_called_again_it_changes_nothing(ledger: Path, tmp_path: Path) -> None:
    file = write_initial_model(tmp_path / "new.safetensors", NEW)
    begin_line(ledger, file)
    before = path_of_line(ledger, 2).read_bytes()
    assert begin_next_line(ledger, task=TASK, initial_model=file, encoding="float16", unix=lambda: T0 + 9).before
    assert path_of_line(ledger, 2).read_bytes() == before
    assert len(ledgers_of(ledger)) == 2


def test_a_student_of_a_line_that_is_open_is_refused(ledger: Path, tmp_path: Path) -> None:
    file = write_initial_model(tmp_path / "same.safetensors", LAYOUT)
    with pytest.raises(LineError, match=r"line toy has the student of .* and is open"):
        begin_line(ledger, file)
    begin_line(ledger, write_initial_model(tmp_path / "new.safetensors", NEW))
    close_line(ledger, now=T0)
    begin_line(ledger, file)  # back to the old student
    assert len(ledgers_of(ledger)) == 3


def test_other_labels_begin_a_line_with_the_same_tensors(ledger: Path, tmp_path: Path) -> None:
    def file(*labels: str) -> Path:
        return write_initial_model(tmp_path / "-".join(labels), NEW, labels=labels)

    for labels in (("no", "yes"), ("yes", "no"), ("yes", "no")):
        begin_line(ledger, file(*labels))
    assert len(ledgers_of(ledger)) == 3
    with pytest.raises(LineError, match=r"line toy.2 has the student of"):
        begin_line(ledger, file("no", "yes"))


def test_a_ledger_that_is_not_the_first_lines_is_refused(ledger: Path, tmp_path: Path) -> None:
    file = write_initial_model(tmp_path / "new.safetensors", NEW)
    begin_line(ledger, file)
    with pytest.raises(LineError, match=r"is of 'toy.2', not of 'toy'"):
        begin_line(path_of_line(ledger, 2), file)


def test_a_ledger_without_a_model_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite3", task=TASK).close()
    with pytest.raises(LineError, match="has no model yet"):
        begin_line(tmp_path / "ledger.sqlite3", write_initial_model(tmp_path / "new.safetensors", NEW))


def run(*arguments: str) -> int:
    return main([*arguments, "--task", TASK, "--ledger", "ledger.sqlite3"])


def test_the_commands_on_a_living_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stage = LinesStage(tmp_path)
    stage.step()
    write_initial_model(tmp_path / "new.safetensors", NEW)
    assert run("close-line") == 2
    assert "is the only one" in capsys.readouterr().err
    for said in ("line toy.2 begins: ledger", "line toy.2 has begun already"):
        assert run("begin-line", "--initial-model", "new.safetensors") == 0
        assert said in capsys.readouterr().out
    stage.step()
    assert (stage.manifest().next_line, stage.manifest().closed) == (NEXT, False)
    for said in ("line toy is closed: its newest model stays published", "line toy is closed already"):
        assert run("close-line") == 0
        assert said in capsys.readouterr().out
    stage.step()
    assert stage.manifest().closed
    assert not stage.manifest(NEXT).closed
    assert main(["status", "--ledger", "ledger.sqlite3"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[1] for line in told.splitlines() if line.startswith("task")] == [TASK, NEXT]
    assert "closed " in told.split("\n\n")[0]
    assert "closed " not in told.split("\n\n")[1]
    assert main(["status", "--ledger", "ledger.sqlite3", "--json"]) == 0
    assert '"next_lines": [{"task": "toy.2"' in capsys.readouterr().out
