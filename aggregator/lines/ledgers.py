"""The ledgers of a task's lines, beside each other: `ledger.sqlite3`, `ledger.2.sqlite3` and so on.

A line exists if its ledger does. `begin.py` gives a ledger this name only when it is complete.
"""

from pathlib import Path


def path_of_line(first: Path, number: int) -> Path:
    """The file of line `number`, named after that of the first line."""
    first = first.resolve()  # beside the file itself, like SQLite's files, not beside a link to it
    return first if number == 1 else first.with_name(f"{first.stem}.{number}{first.suffix}")


def ledgers_of(first: Path) -> list[Path]:
    """The ledgers of all lines, oldest first. That of the first line is in the list whether it exists or not."""
    found = [path_of_line(first, 1)]
    while (path := path_of_line(first, len(found) + 1)).exists():
        found.append(path)
    return found
