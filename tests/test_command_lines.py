"""What all command lines share: `--help` of every command, `--version`, and one line for whatever went wrong."""

import gc
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.settings import RunSettings
from asyncfedkd.programs import SUITE, main
from wire_contract.program.command_line import Command, Program
from wire_contract.program.command_settings import CommandSettings, UsageError, read_settings
from wire_contract.program.exit_codes import EXTRAS
from wire_contract.program.flags import GROUPS, flags_of, help_text

HOUSE = Path(__file__).parents[1]
PYTHON_WORDS = re.compile(r"\b(?:str|int|float|bool|tuple|list|dict|Path|SecretStr|Literal|None|True|False)\b")


def commands() -> Iterator[list[str]]:
    """Every word or two that a user may write after `asyncfedkd`."""
    for name, row in SUITE.programs.items():
        if row.command is not None:
            yield [name]
        else:
            yield from ([name, command] for command in row.program().commands)


def settings_of(words: list[str]) -> type[CommandSettings]:
    row = SUITE.programs[words[0]]
    return row.program().commands[row.command or words[1]].settings_class()


ALL = list(commands())
HELPS = [[], *([name] for name in SUITE.programs), *(words for words in ALL if len(words) > 1)]


def printed(words: list[str], monkeypatch: pytest.MonkeyPatch, *, encoding: str, columns: int) -> str:
    """What the command prints on a terminal of so many columns that knows only these characters."""
    taken = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(taken, encoding=encoding, errors="strict"))
    monkeypatch.setenv("COLUMNS", str(columns))
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code or 0
    assert code == 0
    sys.stdout.flush()
    return taken.getvalue().decode(encoding)


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_help_is_shown_on_every_terminal(words: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (80, 40):
        shown = printed([*words, "--help"], monkeypatch, encoding=encoding, columns=columns)
        assert shown.startswith("usage: asyncfedkd")
        assert "?" not in shown, "a character that nobody has spelled"
        for line in shown.splitlines():
            # Spelling may make a line longer, and a word that is longer than the terminal cannot be helped.
            longest = len(max(line.split(), key=len, default=""))
            assert len(line) <= columns + 6 or longest > columns - 7, line


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_speaks_of_values_and_not_of_types(words: list[str]) -> None:
    flags = flags_of(settings_of(words))
    assert flags
    for flag in flags:
        assert flag.description, flag.name
        assert not PYTHON_WORDS.search(f"{flag.value or ''} {flag.default or ''}"), flag
        assert (
            flag.is_positional
            or flag.key in settings_of(words).only_flags
            or flag.variable == "FEDKD_" + flag.name.removeprefix("--").replace("-", "_").upper()
        )
    names = [flag.name for flag in flags]
    assert len(set(names)) == len(names)
    shown = help_text(settings_of(words), program="program", columns=80)
    for flag in flags:
        assert f"\n  {flag.shown.split()[0]}" in shown
    assert all(f"{title}:" in shown for title in {flag.group for flag in flags} - {""})


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_groups_begin_at_flags_that_there_are(words: list[str]) -> None:
    settings = settings_of(words)
    for base in settings.__mro__:
        assert set(base.__dict__.get(GROUPS, {})) <= set(settings.model_fields), base


def test_defaults_choices_and_units_are_shown() -> None:
    shown = " ".join(help_text(RunSettings, program="p", columns=100).split())
    for expected in (
        "--task TASK name of what is learned; one level of every topic (needed; FEDKD_TASK)",
        "--staleness-decay {constant,polynomial,hinge}",
        "--version-seconds SECONDS",
        "default: 1048576, which is 1 MiB",
        "--telemetry, --no-telemetry",
        "default: on; FEDKD_TELEMETRY",
        "--signing-key FILE …",
        "connection:",
        "TLS:",
        "ledger:",
    ):
        assert expected in shown, expected


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_every_command_tells_the_version(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words == ["aggregator", "move-forward"]:
        pytest.skip("--version is the new number there")
    shown = printed([*words, "--version"], monkeypatch, encoding="ascii", columns=80)
    assert re.fullmatch(r"asyncfedkd \d+\.\d+\S*\s", shown)


@pytest.mark.parametrize("module", ["aggregator", "device_client", "simulators", "benchmarks", "asyncfedkd"])
def test_modules_are_programs_too(module: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LANG": "C", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=HOUSE, env=environment, capture_output=True, text=True, check=True
    )
    called = "asyncfedkd PROGRAM" if module == "asyncfedkd" else f"python -m {module} COMMAND"
    assert done.stdout.startswith(f"usage: {called}")
    assert done.stderr == ""


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_names_a_function_that_there_is(words: list[str]) -> None:
    """A command may be given as "module:function", which no type checker follows."""
    reference = SUITE.programs[words[0]]
    command = reference.program().commands[reference.command or words[1]]
    assert len(inspect.signature(command.function()).parameters) >= 1


def test_a_command_is_imported_without_garbage_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "collects.py").write_text(
        "import gc\nwas_enabled = gc.isenabled()\ndef run(settings): return was_enabled\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = SUITE.programs["device"].program().commands["run"]
    assert replace(command, run="collects:run").function()(None) is False
    assert gc.isenabled()


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["agregator"], "asyncfedkd: there is no program 'agregator'; did you mean aggregator?"),
        (["device", "runn"], "device_client: there is no command 'runn'; did you mean run?"),
        (["aggregator", "status", "--leger", "x"], "there is no flag --leger; did you mean --ledger?"),
        (["aggregator", "status", "x"], "'x' belongs to no flag"),
        (["aggregator", "status", "--ledger"], "--ledger: expected one argument"),
        (["benchmarks", "learning", "--seeds", "0"], "--seeds: Input should be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert said in complaint(capsys, *words)


def test_a_wrong_variable_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_SHARD", "many")
    said = complaint(capsys, "aggregator", "move-forward", "--version", "3")
    assert "FEDKD_SHARD: Input should be a valid integer" in said


class Settings(CommandSettings):
    """Does nothing."""


def outcome(run: Callable[[object], None], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    program = Program(
        name="some", started_as="some", summary="Some.", commands={"do": Command(settings=Settings, run=run)}
    )
    code = program.main(["do"])
    return code, capsys.readouterr().err


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a program that another test ran here may have its own
    assert outcome(lambda _: signal.raise_signal(signal.SIGINT), capsys) == (130, "some: ended by Ctrl-C\n")


def test_a_missing_extra_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def needs_torch(_settings: object) -> None:
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")

    code, said = outcome(needs_torch, capsys)
    assert (code, said.count("\n")) == (2, 1)
    assert "pip install 'asyncfedkd[device]'" in said


def test_a_defect_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_settings: object) -> None:
        raise ModuleNotFoundError("No module named 'agregator'", name="agregator")

    with pytest.raises(ModuleNotFoundError):
        outcome(broken, capsys)


def test_the_extras_are_those_of_the_distribution() -> None:
    extras = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for module, extra in EXTRAS.items():
        brought_by = "amqtt" if module == "pwdlib" else module
        assert any(re.match(rf"{brought_by}\b", one) for one in extras[extra]), module


BASE_ONLY = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "psutil", "onnx", "onnxscript", "amqtt", "pwdlib", "rich", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from asyncfedkd.programs import main
"""


def without_extras(*words: str) -> subprocess.CompletedProcess[str]:
    """The installed command where only the base dependencies are."""
    code = f"{BASE_ONLY}\nsys.exit(main({list(words)!r}))"
    return subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ["aggregator", "status", "--ledger", "none"],
        ["aggregator", "move-forward", "--ledger", "none", "--version", "3"],
    ],
    ids=" ".join,
)
def test_the_aggregator_runs_without_extras(words: list[str]) -> None:
    done = without_extras(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("aggregator: ledger ")
    assert "not installed" not in done.stderr


def test_help_needs_no_extra() -> None:
    words = [["device", "run"], ["demo"], ["doctor"], ["watch"], ["broker"], ["benchmarks", "learning"]]
    code = f"""{BASE_ONLY}
for words in {words!r}:
    try:
        main([*words, "--help"])
    except SystemExit as ended:
        assert not ended.code, words
"""
    subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, check=True)


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["device", "initial-model", "--task", "physiotherapy", "--out", "x"], "device"),
        (["benchmarks", "learning"], "device"),
        (["demo"], "simulators"),
        (["broker"], "simulators"),
    ],
    ids=str,
)
def test_a_program_whose_extra_is_missing_says_which(words: list[str], extra: str) -> None:
    done = without_extras(*words)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"pip install 'asyncfedkd[{extra}]'" in done.stderr


def test_an_empty_value_counts_as_not_given() -> None:
    with pytest.raises(UsageError, match="--task is missing"):
        read_settings(RunSettings, ["--task", "", "--broker", "mqtt://localhost"], program="p")
