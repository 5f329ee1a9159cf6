"""No document shows a command that the programs would not take."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from aggregator.ledger.ledger import Ledger
from asyncfedkd.programs import SUITE, main
from device_client.settings import RunSettings as DeviceSettings
from device_client.tasks.loading import BUILT_IN
from tests.aggregator.synthetic import TASK, begin
from tests.documents import (
    ARCHITECTURE,
    DECISIONS,
    DOCUMENTS,
    HOUSE,
    Shown,
    blocks,
    is_there,
    named_places,
    prose,
    section_names,
    shown,
    words_of,
)
from tests.test_command_lines import ALL as COMMANDS
from tests.test_command_lines import settings_of
from tests.test_house import PACKAGES
from wire_contract.program.command_settings import read_settings
from wire_contract.program.flags import HELP_FLAGS, VERSION_FLAG, flags_of, parse

ALL = [one for document in DOCUMENTS for one in shown(document)]
FROM_THE_ENVIRONMENT = {
    "FEDKD_TASK": "bearings",
    "FEDKD_BROKER": "mqtt://localhost",
    "FEDKD_DEVICE": "watch-1",
    "FEDKD_STATE": "state",
}
"""What README's quickstart exports, and what documents leave out where it is not the point."""
TOPS = sorted({package.split(".")[0] for package in PACKAGES})
OTHERS = re.compile(
    r"(?:make|git|cp|openssl|tar|export|pip|mkdir|systemctl|sudo|docker|python3\.11 -m venv|\. \.venv/bin/activate)\b"
)
"""Whose commands our own stand among."""


@pytest.mark.parametrize("one", [one for one in ALL if words_of(one.command) is not None], ids=str)
def test_the_programs_take_every_command(one: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in FROM_THE_ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    words = words_of(one.command)
    assert words is not None
    if words[0] in {VERSION_FLAG, *HELP_FLAGS}:
        return
    words = [re.sub(r"\bNUMBER\b", "7", word) for word in words if not (one.inline and word in {"…", "PROGRAM"})]
    if not words or words[0] in HELP_FLAGS:
        assert one.inline
        return
    reference, rest, _ = SUITE.choose(words)
    program = reference.program()
    if one.inline and (not rest or rest[0] == "NAME"):
        return
    name, flags = program.choose(rest)
    settings = program.commands[name].settings_class()
    if one.inline:
        parse(settings, [flag for flag in flags if flag not in HELP_FLAGS])
        return
    read = read_settings(settings, flags, program=SUITE.name)
    if isinstance(read, DeviceSettings) and read.task in BUILT_IN and read.data is None:
        assert read.device in BUILT_IN[read.task](None).devices, "who tries this is told that there is no such device"


@pytest.mark.parametrize("one", [one for one in ALL if words_of(one.command) is None], ids=str)
def test_other_commands_are_of_known_programs(one: Shown) -> None:
    assert OTHERS.match(one.command), one


@pytest.mark.parametrize("one", [one for one in ALL if re.match(r"make ", one.command)], ids=str)
def test_make_knows_its_targets(one: Shown) -> None:
    """Dry: `make test` cannot run inside itself, and test_demo.py runs what `make demo` runs."""
    subprocess.run([*one.command.split(), "--dry-run"], cwd=HOUSE, check=True, capture_output=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_commands_stand_in_blocks_that_say_so(document: Path) -> None:
    """A block without a language is not looked at, so it must not hold commands."""
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE):
        if language != "sh":
            assert not re.search(r"^(?:asyncfedkd|python -m|docker|make) ", text, re.MULTILINE), text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_flags_in_sentences_are_flags_of_some_command(document: Path) -> None:
    known = {VERSION_FLAG, *HELP_FLAGS}
    for flag in (flag for words in COMMANDS for flag in flags_of(settings_of(words))):
        known |= {flag.name, f"--no-{flag.name.removeprefix('--')}"} if flag.value is None else {flag.name}
    unknown = set(re.findall(r"`(--[a-z][\w-]*)", prose(document))) - known
    assert not unknown, unknown


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target, section in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", prose(document)):
        place = document.parent / target if target else document
        assert place.exists(), target
        assert not section or section in section_names(place), f"{target}#{section}"


@pytest.mark.parametrize("document", [ARCHITECTURE, *DECISIONS], ids=lambda document: document.name)
def test_what_is_named_is_there(document: Path) -> None:
    """A module that moves is moved in these documents, too."""
    missing = [name for name in named_places(prose(document)) if not is_there(name)]
    assert not missing, missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_each_source_file_that_is_named_is_there(document: Path) -> None:
    """Of other paths, documents for users also name those on the user's machine."""
    sources = [name for name in named_places(prose(document)) if "/" in name and name.endswith(".py")]
    assert [name for name in sources if not is_there(name)] == []


def test_the_architecture_finds_what_it_says_in_under_1500_words() -> None:
    """A row of a table names files and what to look for there; every folder of code has its place in the map."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert len(text.split()) < 1_500
    for row in re.findall(r"^\|.*\|$", text, re.MULTILINE):
        files = [HOUSE / name for name in named_places(row)]
        sources = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
        for symbol in re.findall(r"`(\w+)`", row):
            assert re.search(rf"\b(?:def|class) {symbol}\b|^{symbol}\b", sources, re.MULTILINE), row
    folders = {init.parent.relative_to(HOUSE) for top in TOPS for init in (HOUSE / top).rglob("__init__.py")}
    missing = [folder for folder in sorted(folders) if f"`{folder}/`" not in text]
    assert not missing, missing


def test_decisions_are_numbered_questions_with_a_date() -> None:
    files = [file for file in DECISIONS if file.name != "README.md"]
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        title, _, dated, *_ = file.read_text(encoding="utf-8").split("\n")
        assert title.startswith(f"# {file.name[:4]}. "), file.name
        assert title.endswith("?"), title
        assert re.match(r"Decided 20\d\d-\d\d-\d\d[.;]", dated), file.name
        assert "## Decision" in file.read_text(encoding="utf-8"), file.name


def test_the_index_of_decisions_has_each_once_by_its_question() -> None:
    index = (HOUSE / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[(\d{4})\]\((\S+)\) (.+\?) \*.+\*$", index, re.MULTILINE)
    expected = []
    for file in DECISIONS:
        if file.name != "README.md":
            number, question = file.read_text(encoding="utf-8").split("\n")[0].removeprefix("# ").split(". ", 1)
            expected.append((number, file.name, question))
    assert sorted(listed) == expected


@pytest.mark.parametrize("name", ["security.md", "signing.md"])
def test_what_makes_keys_and_files_is_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the document; aggregators and devices that run until they are stopped are not started here."""
    monkeypatch.chdir(tmp_path)
    with Ledger(tmp_path / "ledger.sqlite3", task=TASK) as ledger:
        begin(ledger)
    ran = 0
    for command in (command for block in blocks(HOUSE / "docs" / name) for command in block):
        words = words_of(command)
        if words is None:
            subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
        elif words[1].startswith("--") or words[:2] == ["device", "run"]:
            continue
        else:
            assert main(words) == 0, command
            ran += 1
    assert ran > 2
