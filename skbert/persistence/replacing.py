"""Replace files as a whole: at any moment a name stands for either the old content or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from skbert.exceptions import PersistenceError
from skbert.paths import expanded
from skbert.process.signal_errors import raise_if_of_a_handler

# Seconds between tries to rename or remove a file. Windows refuses while anyone replaces or reads it.
_WAITS = (0.01, 0.05, 0.1, 0.3, 0.6) if os.name == "nt" else ()

_REMEDIES = {
    errno.ENOENT: "; create its folder first",
    errno.EBUSY: "; a file that is mounted by itself cannot be replaced: mount its folder",
}


def replace_file(
    path: str | os.PathLike[str],
    write_to: Callable[[BinaryIO], None],
    *,
    temporary: Path | None = None,
    follow: bool = True,
) -> None:
    """Write a file, replacing an old one as a whole.

    The new content goes to a temporary file next to it, which is renamed once it is on the disk. If that
    fails, or is interrupted, nothing is left behind. The file's mode is that of any new file.

    Parameters
    ----------
    path : str or path
        A ~ is the home folder.
    write_to : callable
        Writes the content to the open binary file that it is given.
    temporary : Path, default=None
        The file next to it; None takes a unique name.
    follow : bool, default=True
        If `path` is a link, whether to replace the file that it points to, and not the link.
    """
    if not os.fspath(path):  # which would be the working directory
        raise PersistenceError(f"{os.fspath(path)!r} does not name a file. Give the name of a file.")
    if os.path.basename(os.fsdecode(path)) in ("", os.curdir, os.pardir):
        raise PersistenceError(f"{os.fspath(path)!r} names a folder. Give the name of a file.")
    target = Path(expanded(path, PersistenceError))
    target = Path(os.path.realpath(target) if follow else os.path.abspath(target))
    if target.exists() and not target.is_file():
        raise PersistenceError(f"{os.fspath(path)!r} exists and is not a file. Give the name of a file.")
    temporary = temporary or target.with_name(f".skbert-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:  # its mode is what the umask leaves
            write_to(file)
            file.flush()
            os.fsync(file.fileno())
        patiently(os.replace, temporary, target)
    except BaseException as error:  # an interrupt, too, even one just after the file was made
        with contextlib.suppress(OSError):  # it was not made, or the disk is read-only by now
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None:  # the error should name the caller's path
            message = f"{error.strerror} (to write a file there)"
            message += _REMEDIES.get(error.errno, "")
            raise OSError(error.errno, message, os.fspath(path)) from error
        raise
    _sync_folder(target.parent)


def patiently(change: Callable[..., None], *files: Path) -> None:
    """Rename or remove files; where the system refuses for a while, try again."""
    for seconds in _WAITS:
        try:
            return change(*files)
        except PermissionError:
            time.sleep(seconds)
    return change(*files)


def _sync_folder(folder: Path) -> None:
    """Flush the folder itself to the disk, where the system can: it holds the file's new name."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # Windows opens no folder, some network drives sync none
        raise_if_of_a_handler(error)
