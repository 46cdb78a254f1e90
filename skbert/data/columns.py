"""Names of the text columns: read from X, and required to be the same in all data that follow."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from skbert.data.inputs import names_in
from skbert.exceptions import InputError


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
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        import pandas as pd

        return X if isinstance(X, pd.DataFrame) else pd.DataFrame(columns=list(X.columns))
    return X


def check_same_names(X_val: Any, names: dict[str, np.ndarray]) -> None:
    """Refuse validation texts whose columns have other names, or another order, than those of X."""
    found, expected = (n.get("feature_names_in_") for n in (column_names(X_val, name="X_val"), names))
    if found is not None and expected is not None and list(found) != list(expected):
        raise InputError(
            f"X_val has the columns {list(found)}, but X has {list(expected)}. Pass the same columns, in the "
            "same order."
        )
