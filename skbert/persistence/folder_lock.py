"""An operating-system lock on a folder, by filelock: it ends with its process, however that ends."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import filelock

# Where a file system has no locks, later versions of filelock would leave a file that outlives its process.
_TAKES = inspect.signature(filelock.FileLock.__init__).parameters
_OPTIONS: dict[str, Any] = {"fallback_to_soft": False} if "fallback_to_soft" in _TAKES else {}


class FolderLock:
    """The lock of a folder: a file in it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = filelock.FileLock(file, **_OPTIONS)
        self._locked: os.stat_result | None = None  # the file as it was when the lock was taken

    def take(self) -> None:
        """Take the lock.

        Raises
        ------
        filelock.Timeout
            If the lock is held elsewhere.
        OSError, NotImplementedError
            If it cannot be taken; the second where a file system has no locks.
        """
        self._locked = None
        self._lock.acquire(blocking=False)
        self._locked = os.stat(self.file)

    def is_held(self) -> bool:
        """Whether the lock that was taken is still the folder's: folder or file may have been removed."""
        if not self._lock.is_locked:
            return False
        try:
            there = os.stat(self.file)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return self._locked is None or os.path.samestat(there, self._locked)

    def retake_if_lost(self) -> None:
        """Take the lock again if it is no longer the folder's; somebody else may have been quicker."""
        if not self.is_held():
            self.release()
            self.take()

    def release(self) -> None:
        """Release the lock, if it is held."""
        self._lock.release()
