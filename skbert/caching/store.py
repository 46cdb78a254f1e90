"""The store in memory: rows by content, process-wide, within a limit in bytes.

1. A *space* names everything that rows depend on besides their key: "tokens-…" a tokenizer, "states-…" frozen
   weights. A *key* is a digest of the content that a row was computed from.
2. Rows that were computed together lie end to end in one array, a *block*: a row costs a key and a place, and
   no array object of its own.
3. A hit moves the row's block to the end of the queue; blocks at the front are dropped when room is needed.
4. An interrupt (Ctrl-C) may come at any moment of a change. The next access then rebuilds places and size
   from the blocks: each block is there or not.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import numpy as np

from skbert.process import forks

KINDS = ("tokens", "vectors", "states")
DEFAULT_LIMIT = 512 * 2**20  # bytes
_BYTES_PER_KEY = 140  # of a key, its place, and their share of the dictionary (tests/test_caching.py)
_BYTES_PER_BLOCK = 450  # of its two arrays and its entry, without what they hold
_ROW_BITS = 20  # of a place: its row within the block; the bits above are the block's number


class CacheInfo(NamedTuple):
    """Cache statistics, as `functools.lru_cache` reports them, with sizes in bytes."""

    hits: int  # rows found
    misses: int  # rows computed
    maxsize: int  # bytes
    currsize: int  # bytes


@dataclass(frozen=True, slots=True)
class _Block:
    space: str
    keys: Sequence[bytes]
    offsets: np.ndarray  # (n_rows + 1,): row i is values[offsets[i]:offsets[i + 1]]
    values: np.ndarray

    @property
    def n_bytes(self) -> int:
        rows = self.values.nbytes + self.offsets.nbytes + _BYTES_PER_KEY * len(self.keys)
        return rows + _BYTES_PER_BLOCK


class Store:
    """Rows by space and key. Threads may share it.

    Parameters
    ----------
    limit : int
        Bytes that all rows and keys may take together.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._lock = threading.RLock()
        self._limit = limit
        self._is_changing = False  # still True where a change was interrupted
        self.clear()

    @property
    def limit(self) -> int:
        """Maximum number of bytes; setting it drops what exceeds it."""
        return self._limit

    @limit.setter
    def limit(self, n_bytes: int) -> None:
        with self._lock:
            self._repair()
            self._is_changing = True
            self._limit = n_bytes
            self._make_room()
            self._is_changing = False

    def clear(self) -> None:
        """Drop everything, and reset the counts."""
        with self._lock:
            self._is_changing = True
            self._blocks: OrderedDict[int, _Block] = OrderedDict()  # next to go first
            self._places: defaultdict[str, dict[bytes, int]] = defaultdict(dict)
            self._size = 0
            self._number = 0
            self._hits: Counter[str] = Counter()
            self._misses: Counter[str] = Counter()
            self._is_changing = False

    def _repair(self) -> None:
        """Rebuild places and sizes if an interrupt has left them half changed."""
        if not self._is_changing:
            return
        self._places = defaultdict(dict)
        for number, block in self._blocks.items():
            self._set_places(number, block)
        self._size = sum(block.n_bytes for block in self._blocks.values())
        self._make_room()
        self._is_changing = False

    def _set_places(self, number: int, block: _Block) -> None:
        first = number << _ROW_BITS
        places = range(first, first + len(block.keys))
        self._places[block.space].update(zip(block.keys, places, strict=True))

    def find(self, space: str, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """The rows of keys, read-only; None where there is none."""
        with self._lock:
            self._repair()
            places = self._places.get(space, {})
            found = [places.get(key) for key in keys]
            for number in {place >> _ROW_BITS for place in found if place is not None}:
                self._blocks.move_to_end(number)
            return [None if place is None else self._row(place) for place in found]

    def _row(self, place: int) -> np.ndarray:
        block, row = self._blocks[place >> _ROW_BITS], place & ((1 << _ROW_BITS) - 1)
        return block.values[block.offsets[row] : block.offsets[row + 1]]

    def add(self, space: str, keys: Sequence[bytes], values: np.ndarray, offsets: np.ndarray) -> None:
        """Keep rows, if they fit at all; `values` must not be written to afterwards."""
        block = _Block(space, keys, offsets, values)
        values.flags.writeable = False
        with self._lock:
            if block.n_bytes > self._limit or len(keys) >> _ROW_BITS:
                return
            self._repair()
            self._is_changing = True
            self._number += 1
            self._blocks[self._number] = block
            self._size += block.n_bytes
            self._set_places(self._number, block)
            self._make_room()
            self._is_changing = False

    def _make_room(self) -> None:
        while self._size > self._limit:
            number, block = self._blocks.popitem(last=False)
            self._size -= block.n_bytes
            places = self._places[block.space]
            for key in block.keys:
                if places.get(key, 0) >> _ROW_BITS == number:  # another thread may have added it again
                    del places[key]
            if not places:
                del self._places[block.space]

    def count(self, kind: str) -> int:
        """Number of rows of a kind, in all its spaces."""
        with self._lock:
            self._repair()
            return sum(len(places) for space, places in self._places.items() if kind_of(space) == kind)

    def tally(self, space: str, hits: int, misses: int) -> None:
        """Count rows that were found, and rows that were not."""
        with self._lock:
            self._hits[kind_of(space)] += hits
            self._misses[kind_of(space)] += misses

    def info(self, kind: str | None) -> CacheInfo:
        """Counts and sizes of a kind of rows; None for all kinds."""
        with self._lock:
            self._repair()
            if kind is None:
                return CacheInfo(self._hits.total(), self._misses.total(), self._limit, self._size)
            size = sum(block.n_bytes for block in self._blocks.values() if kind_of(block.space) == kind)
            return CacheInfo(self._hits[kind], self._misses[kind], self._limit, size)


def kind_of(space: str) -> str:
    """What the rows of a space are: "tokens", "states" or "vectors"."""
    return space.partition("-")[0]


STORE = Store()
forks.renew(vars(STORE), _lock=threading.RLock, _is_changing=lambda: True)


def set_cache_limit(n_bytes: int) -> None:
    """Set how many bytes skbert may keep in memory for later fits, in this process.

    Parameters
    ----------
    n_bytes : int
        Bytes of token ids, frozen layers' outputs and their keys; 512 MiB if never set. The excess is dropped
        at once, least recently used first. 0 keeps nothing in memory; folders of `memory` are still used.

    Raises
    ------
    ValueError, TypeError
        If it is negative or infinite, or not a number.
    """
    if not isinstance(n_bytes, Real):
        raise TypeError(
            f"n_bytes={n_bytes!r}. Expected a number of bytes, such as 2**30; 0 turns the cache off."
        )
    if not 0 <= n_bytes < math.inf:
        raise ValueError(f"n_bytes is {n_bytes}. Expected 0 (no cache) or a positive, finite number.")
    STORE.limit = int(n_bytes)


def clear_caches() -> None:
    """Drop the token ids and frozen layers' outputs that this process keeps, and reset the counts.

    Folders that `memory` names stay as they are.
    """
    STORE.clear()


def cache_info(kind: str | None = None) -> CacheInfo:
    """What the cache of this process holds, and how often it was useful.

    Parameters
    ----------
    kind : {"tokens", "vectors", "states"}, default=None
        Token ids by text; pooled vectors of a frozen encoder; states above the lowest frozen layers. None
        counts all.

    Returns
    -------
    CacheInfo
        A tuple: `hits`, texts found (in memory or on disk); `misses`, texts computed; `maxsize` and
        `currsize`, in bytes.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    if kind not in (None, *KINDS):
        raise ValueError(f"kind={kind!r}. Expected one of {', '.join(map(repr, KINDS))}, or None for all.")
    return STORE.info(kind)
