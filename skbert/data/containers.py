"""Containers of any library: their rows, their values, their names, untouched."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np


def computed(data: Any) -> Any:
    """What Dask computes, if the data are Dask's: else every access would compute them again."""
    return data.compute() if hasattr(type(data), "__dask_graph__") else data


def unmasked(data: Any) -> Any:
    """An array with None in its masked cells, if it is numpy's masked array."""
    if not isinstance(data, np.ma.MaskedArray):
        return data
    if not np.ma.is_masked(data):
        return data.data
    cells = data.data.astype(object)
    cells[np.ma.getmaskarray(data)] = None
    return cells


def as_array(values: Any) -> np.ndarray:
    """The values of any container; what is not an array yet, as an array of objects.

    In numpy's own dtype for str, each takes as much memory as the longest, and loses NUL at its end.
    """
    if isinstance(values, np.ndarray):
        return values
    try:
        return np.asarray(values, dtype=object)
    except TypeError:  # an `__array__` that takes no dtype
        return np.asarray(values)


def rows_of(sequence: Sequence[Any]) -> list[Any]:
    """A sequence as a list; in one slice, if that gives a list: some sequences read each row from a file."""
    with suppress(TypeError):  # a deque has no slices
        rows = sequence[:]
        if isinstance(rows, list) and len(rows) == len(sequence):
            return rows
    return list(sequence)


def is_row(value: Any) -> bool:
    """Whether a value is several cells, not one."""
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def names_in(table: Any) -> list[Any]:
    """Column names of a table, if it is one; in Arrow's tables, `columns` holds the columns themselves."""
    if hasattr(table, "iloc"):  # pandas: attributes may also be names of columns, or of rows
        return list(table.columns) if table.ndim == 2 else []
    return list(getattr(table, "column_names", getattr(table, "columns", ())))
