"""From whatever a user passes as y to an array: one label per text, or an indicator matrix of 0 and 1."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from skbert.data.containers import as_array, computed, is_row, names_in, rows_of, unmasked
from skbert.exceptions import InputError, warn
from skbert.process.float_errors import ignoring_float_errors
from skbert.process.warning_filters import holding_warning_filters

_FOR_PROBABILITIES = " To learn probabilities, pass a text once for each label, with them as sample_weight."


@contextmanager
def as_input_error() -> Iterator[None]:
    """Keep scikit-learn's messages about labels and weights, but raise them as skbert's error."""
    try:
        # Up to scikit-learn 1.8, functions refuse lists if array API dispatch is on.
        with holding_warning_filters(), config_context(array_api_dispatch=False):
            yield
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(str(error)) from error


def label_values(y: Any, name: str = "y") -> np.ndarray:
    """Comparable label values (1-D) or an indicator matrix, or an error that says what is wrong with y.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_labels)
    name : str, default="y"
        The caller's name for y.

    Returns
    -------
    ndarray of shape (n_samples,), or (n_samples, n_labels) of int64

    Raises
    ------
    InputError
        Or a ValueError with scikit-learn's message; see `as_input_error`.
    """
    if y is None or isinstance(y, str | bytes):
        raise InputError(
            f"BertClassifier requires y to be passed, but the target y is {y!r}. Pass one label per text."
            if name == "y"
            else f"{name}={y!r}. Expected an array-like of labels."
        )
    y, columns = _unwrapped(y, name), names_in(y)
    if len(set(columns)) < len(columns):  # which newer versions of scikit-learn refuse
        y = np.asarray(y)
    _check_no_tag_lists(y, name)
    y = y.toarray() if hasattr(y, "toarray") and not hasattr(y, "iloc") else y
    if getattr(getattr(y, "dtype", None), "kind", "") == "T":
        y = y.astype(object)  # numpy's StringDType, which scikit-learn does not know
    fields = getattr(getattr(y, "dtype", None), "names", None)
    if fields:
        raise InputError(
            f"{name} is a structured array with the fields {list(fields)}. Expected one label per text: pass "
            f"one of its fields, such as {name}[{fields[0]!r}]."
        )
    missing = first_missing(y)
    if missing is not None:
        raise InputError(
            f"Input {name} contains NaN (a missing label) at row {missing}. Drop the rows without a label."
        )
    labels = _loose_labels(y)
    is_str = [isinstance(label, str) for label in labels]
    if len(set(is_str)) == 2:
        row = is_str.index(not is_str[0])
        raise InputError(
            f"{name} mixes str labels with labels of other types (first {labels[row]!r} at row "
            f"{row}), so their order is undefined. Convert all of them with str()."
        )
    y = _with_a_dtype(y, name)
    check_finite(np.asarray(y), name, "Labels")
    if hasattr(y, "iloc") and type_of_target(np.asarray(y)[:1]) == "unknown":
        y = np.asarray(y.astype(object))
    column = _as_column(y, name)
    if column is not None and all(type(label) is str for label in column.tolist()):
        return column  # without checking whether many distinct labels mean a regression
    target = ignoring_float_errors(type_of_target)(y, input_name=name)  # it casts all numbers to int
    if target == "unknown":
        raise InputError(_unknown(y, name))
    if target == "multilabel-indicator":
        return _checked_indicator(np.asarray(y), name)
    _refuse_other_targets(target, np.asarray(y), name, columns)
    values = column_or_1d(np.asarray(y)) if column is None else column
    check_classification_targets(values)
    return values


def _refuse_other_targets(target: str, y: np.ndarray, name: str, columns: list[Any]) -> None:
    """Refuse what is neither one label per text nor an indicator matrix."""
    if target in ("multiclass-multioutput", "continuous-multioutput"):
        are_probable = y.dtype.kind == "f" and y.min() >= 0 and np.allclose(y.sum(axis=1), 1)
        raise InputError(
            f"{name} is a 2-D target ({target}{_odd_cell(y, columns)}). Expected a 1-D array with "
            "one label per text or, for several labels per text, an indicator matrix of 0 and 1 (see "
            "scikit-learn's MultiLabelBinarizer). For several columns of classes, use scikit-learn's "
            f"MultiOutputClassifier.{_FOR_PROBABILITIES if are_probable else ''}"
        )
    if target == "continuous":
        numbers = (y if y.dtype.kind == "f" else y.astype(float)).reshape(-1)
        row = np.flatnonzero(~ignoring_float_errors(_are_whole)(numbers))[0]
        raise InputError(
            f"Unknown label type: {target}. {name} holds numbers that are not whole, or too large for an "
            f"int: {numbers[row]:g} at row {row}. Expected classes; to learn numbers, use BertRegressor."
        )


def _are_whole(numbers: np.ndarray) -> np.ndarray:
    return numbers == numbers.astype(np.int64)


def _odd_cell(table: np.ndarray, columns: list[Any]) -> str:
    """Where a matrix that is mostly 0 and 1 has something else, in words."""
    fits = np.isin(table, (0, 1))
    if fits.all() or 2 * np.count_nonzero(fits) < table.size:
        return ""
    row, column = np.argwhere(~fits)[0]
    name = (columns or range(table.shape[1]))[column]
    return f": {table[row, column]:g} at row {row}, column {name!r}"


def class_values(classes: Any) -> np.ndarray:
    """The classes that a call names, sorted."""
    with knowing_classes():
        return np.unique(label_values(classes, "classes"))


@contextmanager
def knowing_classes() -> Iterator[None]:
    """Do not take many distinct labels in few rows for a regression: the classes are known, or named."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*unique classes is greater")
        yield


def _unwrapped(y: Any, name: str) -> Any:
    """Turn other sequences into lists, rows of one label into labels, and masked cells into missing ones."""
    y = unmasked(computed(y))
    if isinstance(y, Sequence) and not isinstance(y, list | tuple | memoryview | array):
        y = y if hasattr(y, "__array__") else rows_of(y)
    if hasattr(y, "__array__") and not hasattr(y, "iloc") and not isinstance(y, np.ndarray):
        values = np.asarray(y)
        if values.ndim == 1 and values.dtype.kind == "U":  # of polars' str: they are cut at NUL
            return as_array(y).tolist()
    if isinstance(y, list | tuple) and y and all(isinstance(r, list | tuple) and len(r) == 1 for r in y):
        _warn_of_column(y, name)
        return [row[0] for row in y]
    return y


def _warn_of_column(y: Any, name: str) -> None:
    column = f"[{names_in(y)[0]!r}]" if names_in(y) else ".ravel()" if hasattr(y, "ravel") else None
    warn(
        f"A column-vector y was passed when a 1d array was expected: {name} has the shape {(len(y), 1)}. "
        f"Pass {f'{name}{column}' if column else f'[row[0] for row in {name}]'}.",
        DataConversionWarning,
    )


def _as_column(y: Any, name: str) -> np.ndarray | None:
    """The labels as a 1-D array, if they are one label per text."""
    column = np.asarray(y)
    if column.ndim == 2 and column.shape[1] == 1:
        _warn_of_column(y, name)
        column = column.reshape(-1)
    return column if column.ndim == 1 else None


def _unknown(y: Any, name: str) -> str:
    labels = np.asarray(y, dtype=object)
    if labels.size == 0 or labels.ndim > 2:
        return f"{name} has the shape {labels.shape}. Expected one label per text, or an indicator matrix."
    first = labels.reshape(-1)[0]
    if isinstance(first, int | float | np.number | np.bool_):
        large = [isinstance(v, int) and not -(2**63) <= v < 2**64 for v in labels.flat]
        if any(large):
            row = large.index(True)
            return (
                f"Unknown label type: {name} has {labels.flat[row]!r:.60} at row {row}, too large for "
                f"an int of 64 bits. Convert the labels, for example with [str(label) for label in {name}]."
            )
        kinds = (("bool", bool | np.bool_), ("int", Integral))
        kind = next((name for name, t in kinds if all(isinstance(v, t) for v in labels.flat)), "float")
        return (
            f"Unknown label type: {name} is an array of Python objects, such as {first!r} at row 0. Expected "
            f"an array of numbers, of bool or of str: pass {name}.astype({kind})."
        )
    remedy = f"Convert them, for example with [str(label) for label in {name}]."
    return (
        f"Unknown label type: {name} holds labels of the type {type(first).__name__}, such as "
        f"{str(first)[:60]!r} at row 0. Expected str, int, bool or datetime64. "
        f"{_remedy_for_dict(first, name) if isinstance(first, dict) else remedy}"
    )


def _remedy_for_dict(first: dict[Any, Any], name: str) -> str:
    key = next((key for key, value in first.items() if key == "label" or isinstance(value, str)), None)
    if key is not None:
        return f"Take the label of each row, [row[{key!r:.60}] for row in {name}]."
    one, several = f"[max(row, key=row.get) for row in {name}]", f"pd.DataFrame(list({name})).fillna(0)"
    return f"For one label per text, take the key of the highest value, {one}; for several, pass {several}."


def _with_a_dtype(y: Any, name: str) -> Any:
    """A table of objects as numbers, or refused; labels that end with NUL as objects: str would drop it."""
    if isinstance(y, list | tuple):
        # Of an Enum's members, which are str, too, numpy would take the names.
        y = [str.__str__(label) if isinstance(label, str) else label for label in y]
        if any(isinstance(label, str) and label[-1:] == "\0" for label in y):
            return np.array(y, dtype=object)
    table = np.asarray(y) if getattr(y, "ndim", 1) == 2 else np.empty((0, 0))
    if table.dtype != object:
        return y
    is_str = np.array([isinstance(value, str) for value in table.flat]).reshape(table.shape)
    if is_str.any() and not is_str.all():
        row, column = np.argwhere(is_str)[0]
        raise InputError(
            f"{name} is a table with the str {table[row, column][:60]!r} at row {row}, column {column}, "
            "beside numbers. Expected one column of labels, or an indicator matrix of 0 and 1 as numbers."
        )
    return y if table.shape[1] == 1 or is_str.any() else table.astype(float)


def _checked_indicator(matrix: np.ndarray, name: str) -> np.ndarray:
    """The matrix, if it holds only 0 and 1: scikit-learn calls any matrix of two values an indicator."""
    found = np.unique(matrix)
    if not np.isin(found, (0, 1)).all():
        raise InputError(
            f"{name} is a matrix of the values {found[:5].tolist()}. Expected an indicator matrix of 0 and "
            "1: 1 where a text has a label."
        )
    return matrix.astype(np.int64)


def check_finite(values: np.ndarray, name: str, what: str) -> None:
    """Refuse infinity, and name its row."""
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
    raise InputError(f"Input {name} contains infinity at row {row}. {what} must be finite.")


def _check_no_tag_lists(y: Any, name: str) -> None:
    """Refuse lists of labels per text, which numpy would only call inhomogeneous."""
    rows = _loose_labels(y)
    lists = [is_row(row) for row in rows]
    lengths = {len(row) if is_list else -1 for row, is_list in zip(rows, lists, strict=True)}
    # A list of equally long rows may be an indicator; in a column of objects, no row is.
    loose = any(lists) and (len(lengths) > 1 or not isinstance(y, list | tuple))
    sets = [isinstance(row, set | frozenset) for row in rows]
    if loose or any(sets):
        first = (lists if any(lists) else sets).index(True)
        raise InputError(
            f"{name} holds the labels of each text as a {type(rows[first]).__name__}, for example "
            f"{str(rows[first])[:60]} at row {first}. Expected an indicator matrix of 0 and 1, as made by "
            "scikit-learn's MultiLabelBinarizer (use the same one for all of your data). If these are "
            f"already rows of such a matrix, pass np.stack({name})."
        )


def _loose_labels(y: Any) -> list[Any]:
    """Labels without a common dtype: those of a list, or of one column of objects."""
    if isinstance(y, list | tuple):
        return list(y)
    # Series of polars and arrays of Arrow have no ndim.
    is_column = getattr(y, "ndim", 1) == 1 or getattr(y, "shape", ())[1:] == (1,)
    column = np.asarray(y) if is_column and hasattr(y, "__array__") else np.empty(0)
    return list(column.reshape(-1)) if column.dtype == object else []


def first_missing(y: Any) -> int | None:
    """The first row of y in which something is missing."""
    import pandas as pd

    if isinstance(y, list | tuple):  # whose missing ones would become the str "nan"
        y = np.array(y, dtype=object)
    flags = np.asarray(pd.isna(y if hasattr(y, "iloc") else np.asarray(y)))
    if flags.size == 0 or flags.ndim == 0:
        return None
    rows = np.flatnonzero(flags.reshape(len(flags), -1).any(axis=1))
    return int(rows[0]) if len(rows) else None
