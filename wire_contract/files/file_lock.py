"""A lock for one process at a time, which the system releases when the process ends, however it ends.

It is `flock` on Unix and `LockFileEx` (by `msvcrt.locking`) on Windows. It is held on a file of its own beside what it
guards: closing a second descriptor of an SQLite database would release SQLite's own locks.
"""

import contextlib
import errno
import os
import sys
from pathlib import Path

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_HOLDER_BYTES_MAX = 32
"""Room for a process id."""


class FileLocked(Exception):
    """Another process holds the lock."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by another process ({holder})")
        self.holder = holder
        """Its process id, as it wrote it into the file, or `unknown`."""


class FileLock:
    """Held from its construction until `release`, or until the process ends."""

    def __init__(self, path: Path) -> None:
        """Locks the file `path` and writes this process id into it. It is created if needed; its folder must exist.

        Raises:
            FileLocked: another process holds the lock.
            OSError: the file cannot be opened, or its file system has no locks; `strerror` says which.
        """
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            is_ours = _lock(self._descriptor)
            holder = b"" if is_ours else os.read(self._descriptor, _HOLDER_BYTES_MAX)
        except OSError as error:
            self.release()
            if error.errno in _NO_LOCKS:
                raise OSError(
                    error.errno, f"its file system has no locks ({error.strerror}); put it on a local disk", str(path)
                ) from None
            raise
        if not is_ours:
            self.release()
            raise FileLocked(path, holder.decode("ascii", "replace").strip() or "unknown")
        with contextlib.suppress(OSError):  # a full disk must not keep a program from starting
            os.truncate(self._descriptor, 0)
            os.write(self._descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        """Releases the lock. May be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30
    """On Windows, locked bytes cannot be read, so the locked byte is far behind the process id."""

    def _lock(descriptor: int) -> bool:
        """Tries to take the lock; returns whether it is ours now."""
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        """Tries to take the lock; returns whether it is ours now."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
