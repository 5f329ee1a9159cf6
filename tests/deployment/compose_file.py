"""Reads compose.yaml and the Dockerfile as far as the tests need: what each service runs, sees and waits for."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
COMPOSE = REPOSITORY / "compose.yaml"
DOCKERFILE = REPOSITORY / "Dockerfile"
TARGETS = ("aggregator", "device", "simulators")
"""Of the Dockerfile, that run."""
PINNED = re.compile(r"[\w./-]+:(\d+\.\d+\.\d+[\w.-]*)")
"""An image by a whole version."""
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class Mount:
    """What a container finds at a path."""

    kind: str
    """bind, volume, secret or tmpfs."""
    source: str
    """Path from the repository for bind and secret, name of a volume, empty for tmpfs."""
    target: str
    read_only: bool


@dataclass(frozen=True)
class Service:
    """One service, with everything filled in."""

    name: str
    raw: Mapping[str, Any]
    command: tuple[str, ...]
    """Entry point and command, as they are started."""
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    depends_on: Mapping[str, str]
    """Condition by service."""
    healthcheck: tuple[str, ...] = ()
    ports: tuple[tuple[str, int, int], ...] = ()
    """Address and port on the host, port in the container."""

    @property
    def target(self) -> str | None:
        """Of our Dockerfile; None: somebody else's image."""
        build = self.raw.get("build")
        return build["target"] if build else None

    @property
    def profiles(self) -> Sequence[str]:
        return self.raw.get("profiles", ())

    @property
    def once(self) -> bool:
        """Whether its end is its proper end."""
        return self.raw["restart"] == "no"


@dataclass(frozen=True)
class Stage:
    """One FROM of the Dockerfile and its instructions."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.instructions if name == instruction]


def filled_in(text: str, variables: Mapping[str, str]) -> str:
    """`text` with ${NAME:-default} as docker compose reads it."""
    return _VARIABLE.sub(lambda match: variables.get(match[1]) or match[2] or "", text)


def read_document(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """All of compose.yaml, anchors and variables filled in."""
    return yaml.safe_load(filled_in(COMPOSE.read_text(), variables or {}))


def read_services(variables: Mapping[str, str] | None = None) -> dict[str, Service]:
    document = read_document(variables)
    stages = read_stages()
    return {name: _service(name, raw, document, stages) for name, raw in document["services"].items()}


def _service(name: str, raw: Mapping[str, Any], document: Mapping[str, Any], stages: Mapping[str, Stage]) -> Service:
    entry = raw.get("entrypoint")
    if entry is None:
        entry = json.loads(stages[raw["build"]["target"]].all("ENTRYPOINT")[-1]) if "build" in raw else []
    return Service(
        name=name,
        raw=raw,
        command=(*entry, *raw.get("command", ())),
        environment=raw.get("environment", {}),
        mounts=tuple(_mounts(raw, document)),
        depends_on={other: how["condition"] for other, how in raw.get("depends_on", {}).items()},
        healthcheck=tuple(raw.get("healthcheck", {}).get("test", ("CMD",))[1:]),
        ports=tuple(_port(text) for text in raw.get("ports", ())),
    )


def _mounts(raw: Mapping[str, Any], document: Mapping[str, Any]) -> list[Mount]:
    found = []
    for entry in raw.get("volumes", ()):
        if isinstance(entry, str):
            source, target = entry.split(":")
            found.append(Mount("volume", source, target, read_only=False))
        else:
            found.append(
                Mount(entry["type"], entry.get("source", ""), entry["target"], read_only=entry.get("read_only", False))
            )
    for entry in raw.get("secrets", ()):
        name, target = (entry, entry) if isinstance(entry, str) else (entry["source"], entry["target"])
        found.append(Mount("secret", document["secrets"][name]["file"], f"/run/secrets/{target}", read_only=True))
    found.extend(Mount("tmpfs", "", text.split(":")[0], read_only=False) for text in raw.get("tmpfs", ()))
    return found


def _port(text: str) -> tuple[str, int, int]:
    address, outside, inside = text.rsplit(":", 2)
    return address, int(outside), int(inside)


def read_stages() -> dict[str, Stage]:
    """The Dockerfile's stages by name, in order."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", text)
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    for line in text.splitlines():
        if not line.strip():
            continue
        name, rest = line.split(maxsplit=1)
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            current = stages[stage] = Stage(stage, base)
        elif current is not None:
            current.instructions.append((name, rest))
    return stages
