"""The file of an unfinished fit, in the folder that `checkpoint` names.

1. `opened` makes the folder if need be, locks it, and names what is wrong with it: before anything is loaded.
2. `Folder.find` reads the file of a fit that was interrupted. It is taken if it is whole and of the same fit
   (`identity.py`); else it is refused.
3. `Folder.write` replaces the file as a whole (`tensorfile.replace_file`): there is always a whole one.
4. A fit that ends removes it, and the folder if skbert made it. A fit that fails or is interrupted leaves it.
   One whose loss became NaN has ended: it would end so again.

The lock is the operating system's, by filelock: it ends with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from skbert import identity
from skbert.exceptions import InputError, NonFiniteLossError, NonFiniteOutputError, PersistenceError
from skbert.persistence import tensorfile

FORMAT = 1
FILE = "unfinished-fit.safetensors"
_LOCK = "unfinished-fit.lock"
_TEMPORARY = "unfinished-fit.tmp"

Arrays = dict[str, np.ndarray]


@dataclass(slots=True)
class Unfinished:
    """A fit that was interrupted."""

    seed: int
    head_init: str  # how the head was started
    state: tuple[dict[str, Any], Arrays]  # of its training: what JSON holds exactly, and arrays


class Folder:
    """The folder of one fit, locked.

    Parameters
    ----------
    path : Path
    made : bool
        Whether skbert made it, and may remove it.
    """

    def __init__(self, path: Path, made: bool) -> None:
        self.path = path
        self.file = path / FILE
        self._made = made
        self._identity: dict[str, Any] = {}

    def find(self, fit: dict[str, Any]) -> Unfinished | None:
        """The fit that was interrupted here, if there is one.

        Parameters
        ----------
        fit : dict
            What `identity.describe` says of the fit that begins now.

        Raises
        ------
        InputError
            If it is another fit.
        PersistenceError
            If the file is damaged.
        """
        self._identity = fit
        if not self.file.exists():
            return None
        content, arrays = self._read()
        found = identity.differences(content["fit"], fit, "was {first} and is {second}")
        if found:
            raise InputError(
                f"checkpoint={os.fspath(self.path)!r} holds an unfinished fit that is not this one: "
                f"{', '.join(found)}. To go on with it, fit as it was fitted; to give it up, delete "
                f"{os.fspath(self.file)!r}; to keep both, use another folder."
            )
        self._made = content["made_folder"]
        return Unfinished(content["seed"], content["head_init"], (content["values"], arrays))

    def write(self, seed: int, head_init: str, values: dict[str, Any], arrays: Arrays) -> None:
        """Replace the file.

        Raises
        ------
        InputError
            If that fails and there is no file yet, or if there is no room to replace it.
        OSError
            If it fails later; the file is then the one that it was.
        """
        is_first = not self.file.exists()
        content = {
            "format": FORMAT,
            "fit": self._identity,
            "seed": seed,
            "head_init": head_init,
            "made_folder": self._made,
            "values": values,
            "arrays": {name: tensorfile.describe(array) for name, array in arrays.items()},
        }
        text = json.dumps(content, separators=(",", ":"))
        metadata = {"sha256": tensorfile.checksum(text), "skbert-fit": text}
        try:
            tensorfile.replace_file(
                self.file,
                lambda file: tensorfile.write(file, arrays, metadata),
                temporary=self.path / _TEMPORARY,
            )
        except OSError as error:
            if not is_first:
                raise
            raise InputError(
                f"The state of the fit cannot be written to checkpoint={os.fspath(self.path)!r} ({error}). "
                "Use another folder, or None."
            ) from error
        if is_first:
            self._check_space()

    def _check_space(self) -> None:
        """Refuse a disk on which the file is, but has no room to be replaced."""
        needed, free = self.file.stat().st_size, shutil.disk_usage(self.path).free
        if free < needed:
            self.file.unlink()
            raise InputError(
                f"checkpoint={os.fspath(self.path)!r} is on a disk with {free / 1e6:.0f} MB left. The state "
                f"of this fit takes {needed / 1e6:.0f} MB, twice while it is replaced. Free some, or use "
                "another folder."
            )

    def clear(self) -> None:
        """Remove what an ended fit leaves."""
        self.file.unlink(missing_ok=True)

    def remove_if_empty(self) -> None:
        """Remove the folder, if skbert made it and nothing is in it."""
        if self._made:
            with contextlib.suppress(OSError):  # something is in it
                self.path.rmdir()

    def _read(self) -> tuple[dict[str, Any], Arrays]:
        try:
            arrays, metadata, _ = tensorfile.read(self.file)
            if set(metadata) != {"skbert-fit", "sha256"}:
                raise PersistenceError("it is not the file of a fit")
            if tensorfile.checksum(metadata["skbert-fit"]) != metadata["sha256"]:
                raise PersistenceError("its metadata do not have their checksum")
            content = json.loads(metadata["skbert-fit"])
            if content["format"] != FORMAT:
                raise PersistenceError(
                    f"it has the format {content['format']!r}, of another version of skbert"
                )
            if {name: tensorfile.describe(array) for name, array in arrays.items()} != content["arrays"]:
                raise PersistenceError("an array does not have its checksum")
        except (PersistenceError, OSError) as error:
            raise PersistenceError(
                f"The unfinished fit in checkpoint={os.fspath(self.path)!r} cannot be read: {error}. Delete "
                f"{os.fspath(self.file)!r} to begin anew."
            ) from error
        return content, arrays


@contextmanager
def opened(checkpoint: str | os.PathLike[str] | None) -> Iterator[Folder | None]:
    """The folder of a fit, for as long as the fit lasts; None without one.

    Raises
    ------
    InputError
        If it cannot be written to, or another fit is using it.
    """
    if checkpoint is None:
        yield None
        return
    folder, lock = _locked(checkpoint)
    try:
        (folder.path / _TEMPORARY).unlink(missing_ok=True)  # of a process that was killed while writing
        yield folder
        folder.clear()
    except (NonFiniteLossError, NonFiniteOutputError):
        folder.clear()
        raise
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file
            (folder.path / _LOCK).unlink()
        lock.release()
        folder.remove_if_empty()


def _locked(checkpoint: str | os.PathLike[str]) -> tuple[Folder, filelock.BaseFileLock]:
    if not os.fspath(checkpoint):
        raise InputError("checkpoint='' is no folder. Expected the name of one, or None.")
    path = Path(checkpoint).expanduser()
    made = not path.exists()
    lock = filelock.FileLock(path / _LOCK)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise InputError(
            f"checkpoint={os.fspath(checkpoint)!r} is in use by another fit. Wait until that ends, or use "
            "another folder for each."
        ) from error
    except (OSError, NotImplementedError) as error:  # the second where a file system has no locks
        raise InputError(
            f"checkpoint={os.fspath(checkpoint)!r} is not a folder that can be written to ({error}). "
            "Expected the name of a folder, which is made if it is not there."
        ) from error
    return Folder(path, made), lock
