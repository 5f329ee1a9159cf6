"""The commands that stand in README.md and docs/, and what is needed to try them."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HOUSE = Path(__file__).parents[1]
README = HOUSE / "README.md"
DOCUMENTS = (README, HOUSE / "ARCHITECTURE.md", *sorted((HOUSE / "docs").glob("*.md")))
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
    text = _FENCE.sub("", document.read_text(encoding="utf-8"))
    for command in _INLINE.findall(text):
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
