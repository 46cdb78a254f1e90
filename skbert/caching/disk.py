"""Blocks of rows in files that processes share.

1. A block is one file of three arrays (`persistence/tensorfile.py`): keys, lengths of the rows, and the rows
   end to end. It is written beside its final name and renamed: a reader finds all of it or nothing.
2. The first lookup in a space reads only keys and lengths; rows are read when one of them is wanted.
3. A file that is not exactly what its header says is left out, with one warning. What cannot be written is
   not written, with one warning: a fit does not end because of its cache.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from skbert.exceptions import CacheWarning, PersistenceError, warn
from skbert.persistence import tensorfile
from skbert.persistence.replacing import replace_file
from skbert.process.signal_errors import raise_if_of_a_handler
from skbert.ragged import offsets_of

_ENTRY = "skbert-rows-1"  # the number is that of the format
_SUFFIX = ".safetensors"
_KEY = 24  # bytes; see `cache.digest`


@dataclass(frozen=True, slots=True)
class _Index:
    """Which rows a file has, and where."""

    digests: bytes  # all keys end to end
    offsets: np.ndarray  # (n_rows + 1,): row i is `rows[offsets[i]:offsets[i + 1]]` of the file
    rows: dict[str, Any]  # dtype, shape and checksum of these; see `tensorfile.describe`

    @property
    def keys(self) -> list[bytes]:
        return [self.digests[start : start + _KEY] for start in range(0, len(self.digests), _KEY)]


class BlockFolder:
    """The blocks below a folder, by space.

    Parameters
    ----------
    path : Path
        Created when the first block is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._files: dict[Path, _Index | None] = {}  # None: damaged or unreadable
        self._said: set[str] = set()

    def find(self, space: str, keys: set[bytes], like: np.ndarray) -> Iterator[dict[bytes, np.ndarray]]:
        """Rows of those keys that an intact block has, block by block, each row once.

        Parameters
        ----------
        space : str
        keys : set of bytes
        like : ndarray
            With the dtype and the width that rows must have.
        """
        wanted = set(keys)
        for file in self._blocks_of(space):
            with self._lock:
                found = self._read(file, space, wanted, like)
            wanted -= found.keys()
            if found:
                yield found

    def _read(self, file: Path, space: str, wanted: set[bytes], like: np.ndarray) -> dict[bytes, np.ndarray]:
        index = self._index(file, space, like)
        if index is None or wanted.isdisjoint(index.keys):
            return {}
        try:
            values = _read_values(file, index)
        except FileNotFoundError:  # somebody cleared the folder just now
            return {}
        except (PersistenceError, OSError) as error:
            self._refuse(file, error)
            return {}
        bounds = zip(index.keys, index.offsets[:-1], index.offsets[1:], strict=True)
        return {key: values[a:b] for key, a, b in bounds if key in wanted}

    def lacking(self, space: str, keys: Iterable[bytes], like: np.ndarray) -> list[bytes]:
        """The keys that no block has, in their order; none if writing failed before."""
        left = {} if "write" in self._said else dict.fromkeys(keys)
        for file in self._blocks_of(space) if left else ():
            with self._lock:
                index = self._index(file, space, like)
            for key in index.keys if index else ():
                left.pop(key, None)
        return list(left)

    def add(self, space: str, keys: Sequence[bytes], values: np.ndarray, offsets: np.ndarray) -> None:
        """Write a block, unless writing failed before."""
        if "write" in self._said:
            return
        file = self.path / space / (hashlib.sha256(b"".join(keys)).hexdigest()[:32] + _SUFFIX)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, lambda opened: _write(opened, space, keys, values, offsets), follow=False)
        except (OSError, PersistenceError) as error:
            raise_if_of_a_handler(error)
            self._say(
                "write",
                f"The cache in {str(self.path)!r} cannot be written ({error}). This process continues "
                "without writing to it. Free disk space or grant access there, or set memory to another "
                "folder or None.",
            )
            return
        with self._lock:
            self._files.pop(file, None)

    def _blocks_of(self, space: str) -> list[Path]:
        folder = self.path / space
        try:
            found = sorted(file for file in folder.iterdir() if file.suffix == _SUFFIX)
        except OSError as error:  # not there yet, or not readable
            raise_if_of_a_handler(error)
            found = []
        there = set(found)
        with self._lock:  # forget files that somebody removed
            for file in [f for f in self._files if f.parent == folder and f not in there]:
                del self._files[file]
        return found

    def _index(self, file: Path, space: str, like: np.ndarray) -> _Index | None:
        if file not in self._files:
            try:
                self._files[file] = _read_index(file, space, like)
            except FileNotFoundError:  # somebody cleared the folder just now
                return None
            except (PersistenceError, OSError) as error:
                self._refuse(file, error)
        return self._files[file]

    def _refuse(self, file: Path, error: Exception) -> None:
        raise_if_of_a_handler(error)
        self._files[file] = None
        if isinstance(error, OSError):
            self._say("read", f"{str(file)!r} cannot be read ({error}). Its contents are computed again.")
            return
        self._say(
            "damaged",
            f"{str(file)!r} is not an intact cache file: {str(error).removesuffix('.')}. Its contents are "
            "computed again; you can delete the file.",
        )

    def _say(self, what: str, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warn(message, CacheWarning)


def _write(
    file: BinaryIO, space: str, keys: Sequence[bytes], values: np.ndarray, offsets: np.ndarray
) -> None:
    digests = np.frombuffer(b"".join(keys), dtype=np.uint8)
    arrays = {"keys": digests, "lengths": np.diff(offsets), "rows": values}
    sums = {name: tensorfile.describe(array) for name, array in arrays.items()}
    tensorfile.write(file, arrays, tensorfile.sealed(_ENTRY, {"space": space, "arrays": sums}))


def _read_index(path: Path, space: str, like: np.ndarray) -> _Index:
    arrays, metadata, _ = tensorfile.read(path, ("keys", "lengths"))
    about = tensorfile.unsealed(_ENTRY, metadata)
    try:
        known, described = about["space"] == space, about["arrays"]
        rows, keys, lengths = described["rows"], arrays["keys"], arrays["lengths"]
        sound = all(tensorfile.describe(array) == described[name] for name, array in arrays.items())
        fits = (tensorfile.dtype_of(rows), rows["shape"][1:]) == (like.dtype, [*like.shape[1:]])
        kinds = keys.dtype == np.uint8 and lengths.dtype == np.int64 and keys.ndim == lengths.ndim == 1
        n_items = rows["shape"][0]
        whole = kinds and type(n_items) is int and len(keys) == _KEY * len(lengths)
        # As Python's int, whose sum does not wrap around.
        whole = whole and sum(lengths.tolist()) == n_items and bool((lengths >= 0).all())
    except (LookupError, TypeError, ValueError) as error:
        raise PersistenceError("it is not one that skbert writes") from error
    if not (known and sound and whole):
        raise PersistenceError("its keys are not those that were written for these rows")
    if not fits:
        raise PersistenceError("its rows have another dtype or shape")
    return _Index(keys.tobytes(), offsets_of(lengths), rows)


def _read_values(path: Path, index: _Index) -> np.ndarray:
    rows = tensorfile.read(path, ("rows",))[0].get("rows")
    if rows is None or tensorfile.describe(rows) != index.rows:
        raise PersistenceError("its rows do not match their checksum")
    return rows
