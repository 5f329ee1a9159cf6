"""`backup`, `restore` and `check-ledger`: what an operator does with the ledger as a file."""

from pathlib import Path

from pydantic import Field

from aggregator.ledger.backup import LedgerContents, back_up, check_ledger, restore_backup
from wire_contract.program.command_settings import CommandSettings


class BackupSettings(CommandSettings):
    """Writes a checked copy of a ledger, also while the aggregator runs."""

    ledger: Path = Field(Path("ledger.sqlite3"), description="the aggregator's durable memory, one SQLite file")
    out: Path = Field(description="new file for the copy; one that is there is never overwritten")


class RestoreSettings(CommandSettings):
    """Puts a backup into the place of a ledger, while no aggregator uses it."""

    backup: Path = Field(description="file that `backup` wrote")
    ledger: Path = Field(Path("ledger.sqlite3"), description="the ledger that it becomes")
    replace: bool = Field(False, description="set a ledger that is there aside; it is kept as LEDGER.replaced-1")
    task: str | None = Field(None, description="refuse a backup of another task")


class CheckLedgerSettings(CommandSettings):
    """Reads all of a ledger and says whether it is whole, also while the aggregator runs; exit code 2 if it is not."""

    ledger: Path = Field(Path("ledger.sqlite3"), description="the ledger, or a backup of one")


def make_backup(settings: BackupSettings) -> None:
    """Writes it and says what it holds."""
    held = back_up(settings.ledger, settings.out)
    print(f"backup {settings.out}: {_told(held)}")


def put_back(settings: RestoreSettings) -> None:
    """Restores, and says what comes next."""
    restored = restore_backup(settings.backup, settings.ledger, replace=settings.replace, task=settings.task)
    print(f"ledger {settings.ledger}: {_told(restored.held)}")
    if restored.aside is not None:
        print(f"the ledger that was there is kept as {restored.aside}")
    print(
        f"Next: if a version above {restored.held.version} was ever published, devices may hold it. Then, before the "
        "aggregator starts:\n"
        f"  asyncfedkd aggregator move-forward --ledger {settings.ledger} --version NUMBER\n"
        "with a NUMBER above every version that was published."
    )


def check(settings: CheckLedgerSettings) -> None:
    """Says what it holds."""
    print(f"ledger {settings.ledger} is whole: {_told(check_ledger(settings.ledger))}")


def _told(held: LedgerContents) -> str:
    waiting = f", {held.waiting} updates wait for the next" if held.waiting else ""
    return f"version {held.version} of task {held.task}, shard {held.shard}{waiting}; {held.size_bytes} bytes"
