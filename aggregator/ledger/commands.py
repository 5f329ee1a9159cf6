"""The commands `backup`, `restore` and `check-ledger`."""

from pathlib import Path

from pydantic import Field

from aggregator.ledger.backup import LedgerContents, back_up, check_ledger, restore_backup
from wire_contract.program.command_settings import CommandSettings


class BackupSettings(CommandSettings):
    """Writes a checked copy of a ledger, even while the aggregator runs."""

    ledger: Path = Field(Path("ledger.sqlite3"), description="the aggregator's durable state, one SQLite file")
    out: Path = Field(description="new file for the copy; an existing file is never overwritten")


class RestoreSettings(CommandSettings):
    """Installs a backup as the ledger, while no aggregator uses it."""

    backup: Path = Field(description="file that `backup` wrote")
    ledger: Path = Field(Path("ledger.sqlite3"), description="ledger to create or replace")
    replace: bool = Field(False, description="replace an existing ledger, which is kept as LEDGER.replaced-1")
    task: str | None = Field(None, description="refuse a backup of any other task")


class CheckLedgerSettings(CommandSettings):
    """Checks a whole ledger, even while the aggregator runs; exit code 2 if it is damaged."""

    ledger: Path = Field(Path("ledger.sqlite3"), description="the ledger, or a backup of one")


def make_backup(settings: BackupSettings) -> None:
    """Runs `backup`."""
    held = back_up(settings.ledger, settings.out)
    print(f"backup {settings.out}: {_told(held)}")


def put_back(settings: RestoreSettings) -> None:
    """Runs `restore`, and prints the next steps."""
    restored = restore_backup(settings.backup, settings.ledger, replace=settings.replace, task=settings.task)
    print(f"ledger {settings.ledger}: {_told(restored.held)}")
    if restored.aside is not None:
        print(f"the previous ledger is kept as {restored.aside}")
    print(
        f"Next: if a version above {restored.held.version} was ever published, devices may have it. If so, run this "
        "before you start the aggregator:\n"
        f"  asyncfedkd aggregator move-forward --ledger {settings.ledger} --version NUMBER\n"
        "with a NUMBER above every version that was published."
    )


def check(settings: CheckLedgerSettings) -> None:
    """Runs `check-ledger`."""
    print(f"ledger {settings.ledger} is intact: {_told(check_ledger(settings.ledger))}")


def _told(held: LedgerContents) -> str:
    waiting = f", {held.waiting} updates wait for the next version" if held.waiting else ""
    return f"version {held.version} of task {held.task}, shard {held.shard}{waiting}; {held.size_bytes} bytes"
