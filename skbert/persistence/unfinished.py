"""The file of an unfinished fit, in the folder that `checkpoint` names.

1. `opened` makes the folder if needed, locks it (`folder_lock.py`), and reports what is wrong with it before
   anything is loaded.
2. `FitFolder.find` reads the file of a fit that was interrupted. The file is used if it is complete and from
   the same fit (`identity.py`); otherwise it is refused.
3. `FitFolder.write` replaces the file as a whole (`fit_file.py`): there is always a complete one.
4. A fit that ends removes the file, and the folder if skbert made it. A fit that fails or is interrupted
   leaves the file. A fit whose loss became NaN has ended: it would end the same way again.
5. Once the first state is written, no trouble with the folder ends the fit: disks fill up or turn read-only,
   and people delete what they do not know. A folder that is gone is made and locked again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from skbert import identity
from skbert.exceptions import (
    InputError,
    NonFiniteLossError,
    NonFiniteOutputError,
    PersistenceError,
    warn,
)
from skbert.paths import is_path
from skbert.persistence import fit_file
from skbert.persistence.folder_lock import FolderLock
from skbert.persistence.tensorfile import Arrays
from skbert.pretrained.files import CONFIG
from skbert.process.signal_errors import raise_if_of_a_handler

FILE = "unfinished-fit.safetensors"
_LOCK = "unfinished-fit.lock"
_MADE = "unfinished-fit.made"  # marks a folder that skbert made, for a fit killed before its first state
_TEMPORARY = "unfinished-fit.tmp"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A fit that was interrupted."""

    seed: int
    head_init: str  # how the head was started
    state: tuple[dict[str, Any], Arrays]  # of its training: what JSON holds exactly, and arrays


class FitFolder:
    """The folder of one fit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / FILE
        self._made = False  # by skbert, which may then remove it
        self._is_written = False  # a state has been written
        self._lock = FolderLock(path / _LOCK)
        self._identity: dict[str, Any] = {}

    def open(self) -> None:
        """Make the folder if needed, and lock it.

        Raises
        ------
        filelock.Timeout
            If another fit has it.
        OSError, NotImplementedError
            If it cannot be used; the second where a file system has no locks.
        """
        self._made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        if self._made:  # noted before the lock's file is there, which Ctrl-C may leave unlocked
            (self.path / _MADE).touch()
        self._lock.take()
        self._made = (self.path / _MADE).exists()
        (self.path / _TEMPORARY).unlink(missing_ok=True)  # of a process that was killed while writing

    def find(self, fit: dict[str, Any]) -> Unfinished | None:
        """The fit that was interrupted here, if there is one.

        Parameters
        ----------
        fit : dict
            What `identity.describe` says about the fit that begins now.

        Raises
        ------
        InputError
            If it is another fit.
        PersistenceError
            If the file is damaged.
        """
        self._identity = fit
        try:
            content, arrays = self._read()
        except FileNotFoundError:
            return None
        found = identity.differences(content["fit"], fit, "was {first} and is {second}")
        if found:
            raise InputError(
                f"checkpoint={os.fspath(self.path)!r} holds an unfinished fit that is not this one: "
                f"{', '.join(found)}. To continue it, fit exactly as before; to discard it, delete "
                f"{os.fspath(self.file)!r}; to keep both, use another folder."
            )
        self._made, self._is_written = content["made_folder"], True
        return Unfinished(content["seed"], content["head_init"], (content["values"], arrays))

    def write(self, seed: int, head_init: str, values: dict[str, Any], arrays: Arrays) -> None:
        """Replace the file.

        Raises
        ------
        InputError
            If that fails the first time, or if there is no room to replace it.
        OSError, PersistenceError
            If it fails later; the previous file is then still there, unless somebody removed it.
        """
        content = {
            "fit": self._identity,
            "seed": seed,
            "head_init": head_init,
            "made_folder": self._made,
            "values": values,
        }
        temporary = self.path / _TEMPORARY
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.retake_if_lost()
            temporary.unlink(missing_ok=True)  # where the last writing failed, and so did removing it
            fit_file.write(self.file, content, arrays, temporary)
            if not self._is_written:
                self._check_space()
        except (OSError, PersistenceError) as error:
            raise_if_of_a_handler(error)
            if self._is_written:
                raise
            raise InputError(
                f"The state of the fit cannot be written to checkpoint={os.fspath(self.path)!r} ({error}). "
                "Use another folder, or None."
            ) from error
        self._is_written = True

    def _check_space(self) -> None:
        """Refuse a disk that holds the file, but has no room to replace it."""
        needed, free = self.file.stat().st_size, shutil.disk_usage(self.path).free
        if free < needed:
            self.file.unlink()
            raise InputError(
                f"checkpoint={os.fspath(self.path)!r} is on a disk with {free / 1e6:.0f} MB left. The state "
                f"of this fit takes {needed / 1e6:.0f} MB, twice that while it is replaced. Free some space, "
                "or use another folder."
            )

    def clear(self) -> None:
        """Remove the state of a fit that has ended; if that fails, warn: the fit itself is complete."""
        try:
            os.stat(self.path)
            self._lock.retake_if_lost()
            self.file.unlink(missing_ok=True)
        except (FileNotFoundError, filelock.Timeout):
            pass  # the folder is gone, or another fit's by now
        except OSError as error:
            raise_if_of_a_handler(error)
            warn(
                f"The fit has ended, but its state could not be removed from its checkpoint ({error}). "
                f"Delete {os.fspath(self.file)!r}: otherwise the same fit would continue from it, and "
                "another fit would be refused."
            )

    def close_with(self, stack: contextlib.ExitStack) -> None:
        """Unlock the folder when the stack ends, and remove it if skbert made it and nothing is in it.

        The stack does each of these, even if an interrupt prevents another.
        """
        stack.callback(self._remove_if_empty)
        stack.callback(self._lock.release)
        stack.callback(self._remove, _LOCK)
        stack.callback(self._remove, _MADE)

    def _remove(self, name: str) -> None:
        """Remove a file unless it may be another fit's: the folder is ours while it has our lock, or none."""
        # Windows removes no open file; a name with NUL is invalid.
        with contextlib.suppress(OSError, ValueError):
            made_alone = name == _MADE and self._made and not (self.path / _LOCK).exists()
            if self._lock.is_held() or made_alone:
                (self.path / name).unlink(missing_ok=True)

    def _remove_if_empty(self) -> None:
        if self._made:
            with contextlib.suppress(OSError, ValueError):  # something is in it; its name has a NUL
                self.path.rmdir()

    def _read(self) -> tuple[dict[str, Any], Arrays]:
        try:
            return fit_file.read(self.file)
        except FileNotFoundError:
            raise
        except (PersistenceError, OSError) as error:
            remedy = f"Delete {os.fspath(self.file)!r} to start over."
            if isinstance(error, OSError):
                raise_if_of_a_handler(error)
                remedy = "The file may be intact: make it readable, and fit again."
            raise PersistenceError(
                f"The unfinished fit in checkpoint={os.fspath(self.path)!r} cannot be read: "
                f"{str(error).removesuffix('.')}. {remedy}"
            ) from error


@contextmanager
def opened(checkpoint: str | os.PathLike[str] | None) -> Iterator[FitFolder | None]:
    """The folder of a fit, for as long as the fit lasts; None without one.

    Raises
    ------
    InputError
        If it is a model's, if it cannot be written to, or if another fit is using it.
    """
    if checkpoint is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        folder = _open_or_explain(checkpoint, stack)
        try:
            yield folder
        except (NonFiniteLossError, NonFiniteOutputError):
            folder.clear()
            raise
        folder.clear()


def _check_is_no_model(checkpoint: str | os.PathLike[str]) -> None:
    """Refuse names of pretrained checkpoints, and their folders: `model` is what they are meant for."""
    name = os.fspath(checkpoint)
    if not name:
        raise InputError("checkpoint='' does not name a folder. Expected the name of a folder, or None.")
    if not is_path(checkpoint):
        raise InputError(
            f"checkpoint={name!r}. Expected the folder in which a fit that was killed resumes, written as "
            f"{'./' + name!r}. To fine-tune the pretrained checkpoint of that name, set model={name!r}."
        )
    if isinstance(name, str) and os.path.isfile(os.path.join(os.path.expanduser(name), CONFIG)):
        raise InputError(
            f"checkpoint={name!r} holds a model ({CONFIG}). Expected a folder for the state of a fit, which "
            f"need not exist yet. To fine-tune that model, set model={name!r}."
        )


def _open_or_explain(checkpoint: str | os.PathLike[str], stack: contextlib.ExitStack) -> FitFolder:
    _check_is_no_model(checkpoint)
    try:
        folder = FitFolder(Path(checkpoint).expanduser().absolute())  # a callback may change directory
        folder.close_with(stack)
        folder.open()
    except filelock.Timeout as error:
        raise InputError(
            f"checkpoint={os.fspath(checkpoint)!r} is in use by another fit. Wait until it ends, or use "
            "a separate folder for each fit."
        ) from error
    # No access, no locks there; a NUL; a ~user who is not known; a path of bytes.
    except (OSError, NotImplementedError, ValueError, RuntimeError, TypeError) as error:
        raise_if_of_a_handler(error)
        raise InputError(
            f"checkpoint={os.fspath(checkpoint)!r} is not a folder that can be written to ({error}). "
            "Expected the name of a folder, which is created if it does not exist."
        ) from error
    return folder
