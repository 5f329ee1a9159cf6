"""Errors of the outbox. Each is one line that names the file and says what to do.

OutboxError
├── OutboxInUse        another process has it open
├── OutboxForeign      it belongs to another task, device or program
├── OutboxDamaged      the file is not what was written
├── OutboxFull         its bound is reached
├── OutboxUnwritable   no permission, no such folder; what was there before is untouched
└── OutboxBlocked      the disk takes no write for now: full, or an input/output error; nothing was changed
"""

from pathlib import Path


class OutboxError(Exception):
    """The outbox cannot do what was asked."""


class OutboxInUse(OutboxError):
    def __init__(self, path: Path) -> None:
        super().__init__(
            f"outbox {path} is in use by another process; a device runs once, or give another state folder"
        )


class OutboxForeign(OutboxError):
    def __init__(self, path: Path, why: str, remedy: str) -> None:
        super().__init__(f"outbox {path} cannot be used: {why}; {remedy}")


class OutboxDamaged(OutboxError):
    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"outbox {path} is damaged ({why}); move it away to begin a new one, updates not yet sent are lost"
        )


class OutboxFull(OutboxError):
    def __init__(self, path: Path, *, entries_max: int) -> None:
        super().__init__(f"outbox {path} is full: {entries_max} updates wait for their receipts")
        self.entries_max = entries_max


class OutboxUnwritable(OutboxError):
    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"outbox {path} cannot be written ({why}); mend the permissions or give another state folder, and start "
            "again; what it holds is untouched"
        )


class OutboxBlocked(OutboxError):
    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"outbox {path} cannot be written now ({why}); free some space or check the disk, nothing is lost"
        )
