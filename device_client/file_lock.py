"""One process at a time, by a lock that ends with the process however it ends."""

import fcntl
import os
from pathlib import Path


class FileLock:
    """Held from the moment it is made.

    A file of its own next to what it guards: closing a second descriptor of a database would drop SQLite's own locks.
    """

    def __init__(self, path: Path) -> None:
        """Locks `path` with `.lock` behind it.

        Raises:
            BlockingIOError: somebody else holds it.
            OSError: the file or its folder cannot be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Twice is once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
