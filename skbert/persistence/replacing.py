"""Files that are replaced as a whole: a name stands for the old content or for the new one, at any moment."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from skbert.exceptions import PersistenceError
from skbert.paths import expanded
from skbert.signal_errors import raise_if_of_a_handler

# Seconds between tries to rename or remove a file. Windows refuses while anyone replaces or reads it.
_WAITS = (0.01, 0.05, 0.1, 0.3, 0.6) if os.name == "nt" else ()


def replace_file(
    path: str | os.PathLike[str],
    write_to: Callable[[BinaryIO], None],
    *,
    temporary: Path | None = None,
    follow: bool = True,
) -> None:
    """Write a file anew.

    The new content goes to a file next to it, which takes its name once it is on the disk. If that fails, or
    is interrupted, nothing is left behind. Its mode is that of any new file.

    Parameters
    ----------
    path : str or path
        A ~ is the home folder.
    write_to : callable
        Writes the content to the open binary file that it is given.
    temporary : Path, default=None
        The file next to it; None takes a name that nobody else has.
    follow : bool, default=True
        Whether it is the file that is replaced, and not the link, if `path` is one.
    """
    if not os.fspath(path):  # which would be the working directory
        raise PersistenceError(f"{os.fspath(path)!r} names no file. Give the name of a file.")
    if os.path.basename(os.fsdecode(path)) in ("", os.curdir, os.pardir):
        raise PersistenceError(f"{os.fspath(path)!r} names a folder. Give the name of a file.")
    target = Path(expanded(path, PersistenceError))
    target = Path(os.path.realpath(target) if follow else os.path.abspath(target))
    if target.exists() and not target.is_file():
        raise PersistenceError(f"{os.fspath(path)!r} is there and is not a file. Give the name of a file.")
    temporary = temporary or target.with_name(f".skbert-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:  # its mode is what the umask leaves
            write_to(file)
            file.flush()
            os.fsync(file.fileno())
        patiently(os.replace, temporary, target)
    except BaseException as error:  # an interrupt too, also one that came when the file had just been made
        with contextlib.suppress(OSError):  # it was not made, or the disk is read-only by now
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None:  # the caller's name should be read in it
            message = f"{error.strerror} (to write a file there)"
            raise OSError(error.errno, message, os.fspath(path)) from error
        raise
    _sync_folder(target.parent)


def patiently(change: Callable[..., None], *files: Path) -> None:
    """Rename or remove files, and where the system refuses for a while, try again."""
    for seconds in _WAITS:
        try:
            return change(*files)
        except PermissionError:
            time.sleep(seconds)
    return change(*files)


def _sync_folder(folder: Path) -> None:
    """Have the folder itself on the disk, where the system can: the file's new name is in there."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # Windows opens no folder, some network drives sync none
        raise_if_of_a_handler(error)
