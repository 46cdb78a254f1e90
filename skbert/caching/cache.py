"""Where rows come from: memory, the folder of `memory`, or a computation that is done once.

1. A fit has a `Cache` that grows: what it computes is kept for later fits.
2. A prediction has one that only looks up: texts that are predicted once would push out those that a search
   trains on again and again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skbert.caching.disk import BlockFolder
from skbert.caching.store import STORE
from skbert.exceptions import InputError, InputTypeError
from skbert.process import forks
from skbert.process.signal_errors import raise_if_of_a_handler
from skbert.ragged import end_to_end

ROWS_PER_BLOCK = 1024

_folders: dict[Path, BlockFolder] = {}
_lock = threading.Lock()
forks.renew(globals(), _folders=dict, _lock=threading.Lock)


@dataclass(frozen=True, slots=True)
class Cache:
    """A view of the store in memory, and of a folder.

    Parameters
    ----------
    folder : BlockFolder, default=None
        None keeps nothing on disk.
    grows : bool, default=True
        Whether what is computed is kept.
    """

    folder: BlockFolder | None = None
    grows: bool = True

    def helps(self, kind: str, n_rows: int) -> bool:
        """Whether hashing the rows can pay off: results can be kept, or half of them may be cached."""
        if self.grows:
            return self.folder is not None or STORE.limit > 0
        return n_rows <= 2 * STORE.count(kind)

    def rows(
        self,
        space: str,
        keys: Sequence[bytes],
        compute: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        like: np.ndarray,
        rows_per_block: int = ROWS_PER_BLOCK,
    ) -> list[np.ndarray]:
        """The row of each key, read-only.

        Parameters
        ----------
        space : str
            Everything that a row depends on besides its key.
        keys : sequence of bytes
        compute : callable
            Takes positions in `keys`, and returns their rows end to end and the offsets between them.
        like : ndarray
            With the dtype and the width of the rows.
        rows_per_block : int, default=1024
            Rows that are computed, kept and dropped together.
        """
        found = dict(zip(keys, STORE.find(space, keys), strict=True))
        missing = {key: place for place, key in enumerate(keys) if found[key] is None}
        if self.grows and self.folder is not None:
            in_memory = {key: row for key, row in found.items() if row is not None}
            self._to_disk(space, in_memory, like, rows_per_block)
        if missing and self.folder is not None:
            found |= self._from_disk(space, missing, like)
        places = np.array(list(missing.values()), dtype=np.int64)
        for start in range(0, len(places), rows_per_block):
            chunk = places[start : start + rows_per_block]
            values, offsets = compute(chunk)
            of_chunk = [keys[place] for place in chunk]
            values.flags.writeable = False
            found |= rows_by_key(of_chunk, values, offsets)
            if self.grows:
                STORE.add(space, of_chunk, values, offsets)
                if self.folder is not None:
                    self.folder.add(space, of_chunk, values, offsets)
        STORE.tally(space, len(keys) - len(places), len(places))
        return [found[key] for key in keys]  # type: ignore[misc]  # none is None any more

    def _from_disk(self, space: str, missing: dict[bytes, int], like: np.ndarray) -> dict[bytes, np.ndarray]:
        """Rows that the folder has; they are removed from `missing`, and kept in memory."""
        assert self.folder is not None
        found: dict[bytes, np.ndarray] = {}
        for read in self.folder.find(space, set(missing), like):
            values, offsets = end_to_end(list(read.values()))
            STORE.add(space, list(read), values, offsets)
            found |= rows_by_key(list(read), values, offsets)
        for key in found:
            del missing[key]
        return found

    def _to_disk(
        self, space: str, in_memory: dict[bytes, np.ndarray], like: np.ndarray, rows_per_block: int
    ) -> None:
        """Write rows that memory has from a fit without this folder, since other processes use it, too."""
        assert self.folder is not None
        lacking = self.folder.lacking(space, in_memory, like)
        for start in range(0, len(lacking), rows_per_block):
            chunk = lacking[start : start + rows_per_block]
            self.folder.add(space, chunk, *end_to_end([in_memory[key] for key in chunk]))


def rows_by_key(keys: Sequence[bytes], values: np.ndarray, offsets: np.ndarray) -> dict[bytes, np.ndarray]:
    """Split rows that lie end to end."""
    return {k: values[a:b] for k, a, b in zip(keys, offsets[:-1], offsets[1:], strict=True)}


LOOK_UPS = Cache(grows=False)


def open_cache(memory: Any) -> Cache:
    """The cache of a fit.

    Parameters
    ----------
    memory : None, str, path or joblib.Memory
        The parameter `memory`: a folder, or an object whose `location` is one.

    Raises
    ------
    InputError
        If it is a file, or not a valid folder name. Missing access is reported when the folder is written to.
    InputTypeError
        If the location is not a path.
    """
    location = getattr(memory, "location", memory)
    if location is None:
        return Cache()
    if not isinstance(location, str | os.PathLike) or not isinstance(os.fspath(location), str):
        raise InputTypeError(
            f"memory has the location {location!r} ({type(location).__name__}). Expected a folder (str or "
            "path), a joblib.Memory with one, or None."
        )
    if not os.fspath(location):
        raise InputError("memory='' does not name a folder. Expected the name of a folder, or None.")
    path = _path_of(os.fspath(location)) / "skbert"
    with _lock:
        return Cache(_folders.setdefault(path, BlockFolder(path)))


def _path_of(location: str) -> Path:
    try:
        path = Path(location).expanduser().resolve()
        mode = _mode_of(path)
    except (OSError, ValueError, RuntimeError) as error:  # such as a NUL, or an unknown ~user
        raise_if_of_a_handler(error)
        raise InputError(
            f"memory={location!r} cannot name a folder ({error}). Expected the name of a folder, which need "
            "not exist yet."
        ) from error
    if mode and not stat.S_ISDIR(mode):
        raise InputError(f"memory={location!r} is a file. Expected a folder, which need not exist yet.")
    return path


def _mode_of(path: Path) -> int:
    """The mode; 0 if the path is missing or not accessible, which is reported when a write fails."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        return 0


def digest(content: bytes | memoryview, setting: int = 0) -> bytes:
    """A key of 24 bytes, different for each value of `setting`."""
    return hashlib.blake2b(content, digest_size=24, person=setting.to_bytes(8, "little")).digest()
