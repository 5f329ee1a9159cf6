"""Which modules a module of ours reaches by its imports, and whether it reaches the outside world."""

import ast
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

HOUSE = Path(__file__).parents[1]
OUTSIDE: Mapping[str, str] = {
    **dict.fromkeys(("time",), "the clock"),
    **dict.fromkeys(("random", "secrets", "uuid"), "a random source"),
    **dict.fromkeys(
        ("asyncio", "http", "paho", "select", "selectors", "socket", "ssl", "urllib.request"), "the network"
    ),
    **dict.fromkeys(("concurrent", "multiprocessing", "queue", "signal", "subprocess", "threading"), "other threads"),
    **dict.fromkeys(("fcntl", "msvcrt", "os", "psutil", "shutil", "sqlite3", "tempfile"), "the disk or the system"),
}
"""By the name of an imported module or of its package. (`datetime` is missing: only the calls below read the clock.)"""
CLOCK_CALLS = frozenset({"datetime.now", "datetime.today", "datetime.utcnow", "date.today"})
UNSEEDED = frozenset({"np.random.default_rng", "default_rng"})


@cache
def modules(*packages: str) -> Mapping[str, Path]:
    """All modules of these packages by their dotted names; a package itself is its `__init__`."""
    found = {}
    for package in packages:
        for path in sorted((HOUSE / package).rglob("*.py")):
            name = ".".join(path.relative_to(HOUSE).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def chain_outside(module: str, ours: Mapping[str, Path]) -> Sequence[str]:
    """A shortest chain of imports from `module` to the outside world, which ends with what is reached; or nothing."""
    before: dict[str, str | None] = {module: None}
    waiting = deque([module])
    while waiting:
        name = waiting.popleft()
        reached = imports(ours[name])
        for one in reached:
            what = OUTSIDE.get(one) or OUTSIDE.get(one.split(".")[0])
            if what is not None:
                chain: list[str] = [f"{one} ({what})"]
                at: str | None = name
                while at is not None:
                    chain.append(at)
                    at = before[at]
                return chain[::-1]
        for one in _ours(reached, ours):
            if one not in before:
                before[one] = name
                waiting.append(one)
    return ()


@cache
def imports(path: Path) -> Sequence[str]:
    """What a module imports, inside functions too: `a.b`, and for `from a import b` both `a` and `a.b`.

    Imports that only a type checker follows are left out. A call that reads the clock counts as an import of `time`, an
    unseeded generator of numpy as one of `random`.
    """
    return sorted(set(_imports(ast.parse(path.read_text(encoding="utf-8")))))


def _imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=test) if "TYPE_CHECKING" in ast.unparse(test):
                continue
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Call(func=function) if ast.unparse(function) in CLOCK_CALLS:
                yield "time"
            case ast.Call(func=function, args=[], keywords=[]) if ast.unparse(function) in UNSEEDED:
                yield "random"
        yield from _imports(child)


def _ours(names: Sequence[str], ours: Mapping[str, Path]) -> Iterator[str]:
    """The modules of ours among `names`, and the packages that hold them, which Python imports first."""
    for name in names:
        parts = name.split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1) if ".".join(parts[:count]) in ours)
