"""Rows of different lengths, end to end in one array: row i is `values[offsets[i]:offsets[i + 1]]`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each row begins, and finally where the last one ends: (n_rows + 1,) int64."""
    return np.concatenate([[0], np.cumsum(lengths)])


def end_to_end(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows in one array, and the offsets between them."""
    return np.concatenate(rows), offsets_of([len(row) for row in rows])


def ragged_arange(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate `arange(start, start + length)` over all rows, without a loop."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of equal values begin, and how long they are."""
    is_first = np.ones(len(values), dtype=bool)
    is_first[1:] = values[1:] != values[:-1]
    bounds = np.append(np.flatnonzero(is_first), len(values))
    return bounds[:-1], bounds[1:] - bounds[:-1]
