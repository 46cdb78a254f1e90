"""Blocks of rows in files that processes share. No pickle: JSON, keys and numbers.

1. A block is one file: a line of JSON (what it is, its sizes, two SHA-256), then keys and lengths of the
   rows, then the rows. It is written beside its final name and renamed: a reader finds all of it or nothing.
2. The first lookup in a space reads only keys and lengths; rows are read when one of them is wanted.
3. A file that is not exactly what its header says is left out, with one warning. What cannot be written is
   not written, with one warning: a fit does not end because of its cache.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from skbert.exceptions import CacheWarning, PersistenceError, warn
from skbert.persistence.replacing import replace_file
from skbert.ragged import offsets_of
from skbert.signal_errors import raise_if_of_a_handler

_FORMAT = 1
_SUFFIX = ".rows"
_DTYPE = re.compile(r"[<|][biuf]\d{1,2}")  # numpy accepts others, and reads some as code
_MAX_HEADER = 4096  # bytes
_KEY = 24  # bytes; see `cache.digest`


@dataclass(frozen=True, slots=True)
class _Index:
    """Which rows a file has, and where."""

    digests: bytes  # all keys end to end
    offsets: np.ndarray  # (n_rows + 1,), in items of `shape`
    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of one item
    begin: int  # of the rows' bytes
    sha256: str

    @property
    def keys(self) -> list[bytes]:
        return [self.digests[start : start + _KEY] for start in range(0, len(self.digests), _KEY)]


class _DamagedError(Exception):
    """Why a file is not read."""


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
        except (_DamagedError, OSError) as error:
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
                index = _read_index(file, space)
                if (index.dtype, index.shape) != (like.dtype, like.shape[1:]):
                    raise _DamagedError("its rows have another dtype or shape")
                self._files[file] = index
            except FileNotFoundError:  # somebody cleared the folder just now
                return None
            except (_DamagedError, OSError) as error:
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
            f"{str(file)!r} is not an intact cache file ({error}). Its contents are computed again; you "
            "can delete the file.",
        )

    def _say(self, what: str, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warn(message, CacheWarning)


def _write(
    file: BinaryIO, space: str, keys: Sequence[bytes], values: np.ndarray, offsets: np.ndarray
) -> None:
    stored = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    content = stored.reshape(-1).view(np.uint8).data
    index = b"".join(keys) + np.diff(offsets).astype("<i8").tobytes()
    header = {
        "skbert": _FORMAT,
        "space": space,
        "n_rows": len(keys),
        "dtype": stored.dtype.str,
        "shape": list(stored.shape),
        "index": hashlib.sha256(index).hexdigest(),
        "rows": hashlib.sha256(content).hexdigest(),
    }
    file.write(json.dumps(header).encode() + b"\n" + index)
    file.write(content)


def _opened(path: Path) -> BinaryIO:
    if not stat.S_ISREG(path.stat().st_mode):  # before opening: a pipe would wait for its writer
        raise _DamagedError("it is not a file")
    return path.open("rb")


def _read_index(path: Path, space: str) -> _Index:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        line = file.readline(_MAX_HEADER)
        try:
            header = json.loads(line)
            shape = tuple(header["shape"])
            if not _DTYPE.fullmatch(header["dtype"]):
                raise _DamagedError("the dtype in its header is unknown")
            n_rows, dtype = header["n_rows"], np.dtype(header["dtype"])
            known = header["skbert"] == _FORMAT and header["space"] == space
            sums = str(header["index"]), str(header["rows"])
            if not (shape and all(type(n) is int and n >= 0 for n in (n_rows, *shape))):
                raise _DamagedError("the sizes in its header are not valid")
            begin = len(line) + n_rows * (_KEY + 8)
            whole = begin + math.prod(shape) * dtype.itemsize == size
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _DamagedError("its header cannot be read") from error
        if not known:
            raise _DamagedError("it is of another kind")
        if not whole:
            raise _DamagedError(f"its header does not match its size, {size} bytes")
        index = file.read(begin - len(line))
    if hashlib.sha256(index).hexdigest() != sums[0]:
        raise _DamagedError("its keys do not match their checksum")
    lengths = np.frombuffer(index, dtype="<i8", offset=n_rows * _KEY)
    offsets = offsets_of(lengths)
    if (lengths < 0).any() or offsets[-1] != shape[0]:
        raise _DamagedError("its rows do not match its index")
    digests = index[: n_rows * _KEY]
    return _Index(digests, offsets, dtype.newbyteorder("="), shape[1:], begin, sums[1])


def _read_values(path: Path, index: _Index) -> np.ndarray:
    with _opened(path) as file:
        file.seek(index.begin)
        content = file.read()
    if hashlib.sha256(content).hexdigest() != index.sha256:
        raise _DamagedError("its rows do not match their checksum")
    values = np.frombuffer(content, dtype=index.dtype.newbyteorder("<"))
    return values.reshape(-1, *index.shape).astype(index.dtype, copy=False)
