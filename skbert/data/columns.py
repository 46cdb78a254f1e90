"""Names of columns, of X and of y: read from what a fit is given, and required of all data that follow."""

from __future__ import annotations

import sys
from contextlib import suppress
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from skbert.data.containers import names_in
from skbert.data.targets import label_values
from skbert.exceptions import InputError, shown


def column_names(X: Any, fitted: BaseEstimator | None = None, name: str = "X") -> dict[str, np.ndarray]:
    """`feature_names_in_` as scikit-learn reads it from X, if X has names.

    Parameters
    ----------
    X : array-like of str
    fitted : estimator, default=None
        An estimator that continues with X, or predicts it: X must have its names, which stay, if it has any.
    name : str, default="X"
        The caller's name for X.

    Returns
    -------
    dict
        Empty, or with that attribute alone.

    Raises
    ------
    InputError
        If two columns have the same name.
    ValueError
        If the names are not those that `fitted` has; with scikit-learn's message, as the next.
    TypeError
        If the names are of mixed types.
    """
    names = names_in(X)
    twice = next((label for place, label in enumerate(names) if label in names[:place]), None)
    if twice is not None:  # newer versions of scikit-learn refuse them in words of another library
        raise InputError(
            f"{name} has two columns called {twice!r}. Rename one of them, or pass both without names: "
            f"np.asarray({name})."
        )
    holder = BaseEstimator() if fitted is None else fitted
    validate_data(holder, _as_table(X), skip_check_array=True, ensure_2d=False, reset=fitted is None)
    return {name: value for name, value in vars(holder).items() if name == "feature_names_in_"}


def _as_table(X: Any) -> Any:
    """X, or a table with its names for scikit-learn to read, if X is an Arrow batch or a Dask table."""
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None and isinstance(X, pyarrow.RecordBatch):
        return pyarrow.Table.from_batches([X])
    if hasattr(X, "iloc") and X.ndim == 2:
        import pandas as pd

        return X if isinstance(X, pd.DataFrame) else pd.DataFrame(columns=list(X.columns))
    return X


def check_same_names(X_val: Any, names: dict[str, np.ndarray]) -> None:
    """Refuse validation texts whose columns have other names, or another order, than those of X."""
    found = column_names(X_val, name="X_val").get("feature_names_in_")
    expected = names.get("feature_names_in_")
    if found is not None and expected is not None and list(found) != list(expected):
        raise InputError(
            f"X_val has the columns {list(found)}, but X has {list(expected)}. Pass the same columns, in the "
            "same order."
        )


def are_numbered(names: list[Any]) -> bool:
    """Whether columns are named 0, 1, 2 and so on, as they are if nobody has named them."""
    return names == list(range(len(names)))


def names_of_columns(y: Any) -> np.ndarray | None:
    """Names of a DataFrame's columns, if they are all str, or all whole numbers, and all different."""
    names = names_in(y)
    if len(set(names)) < len(names) or are_numbered(names):
        return None
    if all(isinstance(name, str) for name in names):
        return label_values([str(name) for name in names])
    if all(isinstance(name, Integral) and not isinstance(name, bool) for name in names):
        with suppress(OverflowError):
            return np.array([int(name) for name in names], dtype=np.int64)
    return None


def check_same_columns(y: Any, known: np.ndarray | None, name: str = "y") -> None:
    """Refuse a table whose columns have other names, or another order, than the known ones."""
    found = names_in(y)
    expected = list(range(len(found))) if known is None else known.tolist()
    # As str: a table from a file has "1" where this one may have 1.
    one, other = [*map(str, found)], [*map(str, expected)]
    named = known is not None and names_of_columns(y) is not None
    # If one side is only numbered, different names mean nothing, but a different order does.
    numbered = len({isinstance(name, str) for name in found}) == 1 and sorted(one) == sorted(other)
    if one != other and (named or numbered):
        place = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
        first = "" if place is None else f" (the first difference: {one[place]!r}, not {other[place]!r})"
        raise InputError(
            f"{name} has the columns {shown(found)}, but those of the fit are {shown(expected)}{first}. Pass "
            "the same columns in the same order."
        )
