"""The commands that stand in README.md and docs/, and what is needed to try them."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HOUSE = Path(__file__).parents[1]
README = HOUSE / "README.md"
ARCHITECTURE = HOUSE / "ARCHITECTURE.md"
DECISIONS = tuple(sorted((HOUSE / "docs" / "decisions").glob("*.md")))
DOCUMENTS = (README, ARCHITECTURE, *sorted((HOUSE / "docs").glob("*.md")), *DECISIONS)
MODULES = {
    "aggregator": ["aggregator"],
    "device_client": ["device"],
    "benchmarks": ["benchmarks"],
    "simulators": [],
}
"""What each module is below `asyncfedkd`."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:asyncfedkd|python -m (?:aggregator|device_client|simulators|benchmarks)) [^`]+)`")


@dataclass(frozen=True)
class Shown:
    """One command of a document."""

    document: str
    command: str
    inline: bool = False
    """Stands in a sentence, which may leave flags out."""

    def __str__(self) -> str:
        return f"{self.document}: {self.command}"


def prose(document: Path) -> str:
    """The text without its blocks of code."""
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


def section_names(document: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named_places(text: str) -> Iterator[str]:
    """Every path and dotted module name in backticks: what begins with a folder of this repository, or ends like a
    path. `delta/0`, which is a topic, is none.
    """
    for name in re.findall(r"`([^`\s]+)`", text):
        first = re.split(r"[/.]", name)[0]
        if (first and (HOUSE / first).is_dir()) or ("/" in name and name.endswith(("/", ".py"))):
            yield name


def is_there(name: str) -> bool:
    """Whether a path, or a module with dots, is in this repository."""
    if (HOUSE / name).exists():
        return True
    module = HOUSE.joinpath(*name.split("."))
    return "/" not in name and (module.is_dir() or module.with_suffix(".py").is_file())


def blocks(document: Path) -> list[list[str]]:
    """The commands of each `sh` block: continued lines joined, comments left out."""
    found = []
    for language, text in _FENCE.findall(document.read_text(encoding="utf-8")):
        if language == "sh":
            joined = re.sub(r"\\\n\s*", "", text)
            lines = [re.sub(r"\s+# .*$", "", line).strip() for line in joined.splitlines()]
            found.append([line for line in lines if line and not line.startswith("#")])
    return found


def shown(document: Path) -> Iterator[Shown]:
    """Every command, in blocks and in sentences."""
    name = str(document.relative_to(HOUSE))
    for block in blocks(document):
        yield from (Shown(name, command) for command in block)
    for command in _INLINE.findall(prose(document)):
        yield Shown(name, " ".join(command.split()), inline=True)


def words_of(command: str) -> Sequence[str] | None:
    """What `asyncfedkd` is given by this command; None: it is a command of somebody else."""
    words = shlex.split(command)
    if words[:1] == ["asyncfedkd"]:
        return words[1:]
    if words[:2] == ["python", "-m"] and words[2] in MODULES:
        return [*MODULES[words[2]], *words[3:]]
    if words[:3] == ["docker", "compose", "run"] and "aggregator" in words:  # a service, or a word after `asyncfedkd`
        return words[words.index("aggregator") :]
    return None
