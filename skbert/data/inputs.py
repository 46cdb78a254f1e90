"""From whatever a user passes as X to checked texts.

1. A container becomes columns: one column of texts, or two columns of pairs.
2. Every cell is checked; an error names the first one that is not a `str`, with its row.
3. The result is a `Texts`: plain lists of `str`, so that later stages need no checks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skbert.data.containers import as_array, is_row, names_in, rows_of, unmasked
from skbert.exceptions import InputError, InputTypeError, shown

_EXPECTED = (
    "Expected a 1-D array of str, a list of str, or pairs as two columns (a DataFrame or a 2-D array "
    "with two columns, or a list of 2-tuples)"
)


@dataclass(frozen=True, slots=True)
class Texts:
    """Checked texts: one list of `str`, or two of equal length for sentence pairs."""

    first: list[str]
    second: list[str] | None = None

    def __len__(self) -> int:
        return len(self.first)

    @property
    def n_columns(self) -> int:
        """1 for single texts, 2 for pairs."""
        return 1 if self.second is None else 2

    @property
    def rows(self) -> list[str] | list[tuple[str, str]]:
        """The texts row by row, each hashable: equal rows encode to the same tokens."""
        return self.first if self.second is None else list(zip(self.first, self.second, strict=True))

    def take(self, indices: Iterable[int]) -> Texts:
        """The texts at `indices`, in that order."""
        chosen = list(indices)
        second = None if self.second is None else [self.second[i] for i in chosen]
        return Texts([self.first[i] for i in chosen], second)


def check_texts(X: Any, name: str = "X") -> Texts:
    """Check X and return its texts.

    Parameters
    ----------
    X : array-like of str, shape (n_samples,), (n_samples, 1) or (n_samples, 2)
        Texts, or pairs of texts in two columns.
    name : str, default="X"
        The caller's name for X.

    Raises
    ------
    InputError
        If X is empty or has more than two columns.
    InputTypeError
        If X is one string, or a cell is not a `str`; the first bad row is named.
    """
    columns = _columns(X, name)
    if len(columns) not in (1, 2):
        raise InputError(
            f"{name} has {len(columns)} columns. {_EXPECTED}; {_choose_columns(X, columns, name)}."
        )
    if len(columns[0]) == 0:
        raise InputError(
            f"Found array with 0 sample(s) (shape={_shape(X)}) while a minimum of 1 is required: {name} "
            "is empty. Pass at least one text."
        )
    of_categories = "category" in str(getattr(X, "dtypes", ""))  # pandas' cannot be filled with another value
    given = f"{name}.astype(object)" if of_categories else name
    filled = next(
        (f", for example with {given}.{m}('')" for m in ("fillna", "fill_null") if hasattr(X, m)), ""
    )
    for number, column in enumerate(columns):
        _check_cells(column, number if len(columns) == 2 else None, name, filled)
    return Texts(*columns)


def check_same_n_columns(texts: Texts, n_features_in: int, estimator: str) -> None:
    """Refuse pairs where single texts were fitted, and the reverse."""
    if texts.n_columns != n_features_in:
        raise InputError(
            f"X has {texts.n_columns} features, but {estimator} is expecting {n_features_in} "
            f"features as input: it was fitted on {_KINDS[n_features_in]} and is now given "
            f"{_KINDS[texts.n_columns]}."
        )


def unique_texts(texts: Texts) -> tuple[Texts, np.ndarray]:
    """Each distinct text once, and for every row the place of its text among them.

    Returns
    -------
    unique : Texts
        In the order of first occurrence.
    inverse : ndarray of shape (n_samples,), int64
        `unique.take(inverse)` equals `texts`.
    """
    places, inverse = factorize(texts.rows)
    if texts.second is None:
        return Texts(list(places)), inverse
    return Texts([a for a, _ in places], [b for _, b in places]), inverse


def factorize(rows: Iterable[Any]) -> tuple[dict[Any, int], np.ndarray]:
    """The distinct rows, numbered in order of first occurrence, and the number of each row."""
    places: dict[Any, int] = {}
    return places, np.array([places.setdefault(row, len(places)) for row in rows], dtype=np.int64)


def _choose_columns(X: Any, columns: list[list[Any]], name: str) -> str:
    """Advice on how to get one or two columns from too many."""
    names = names_in(X)
    if names:
        named = zip(names, columns, strict=False)
        of_texts = [label for label, cells in named if cells and isinstance(cells[0], str)]
        example = f"{name}[{(of_texts or ['text'])[0]!r}]"
        return (
            f"of its columns, {shown(names)}, pass the text column, such as {example}, or two columns (more "
            "can be joined into one str first)"
        )
    if isinstance(X, list | tuple) and len(X) == 2:
        labels = "; labels are passed as y_val" if name == "X_val" else ""
        return f"to combine two lists into rows of pairs, pass list(zip(*{name})){labels}"
    if not any(cells and isinstance(cells[0], str) for cells in columns):
        return f"the first row of {name} holds no text"
    return "select or join columns first"


_ZIPPED = "list(zip({0}['first'], {0}['second']))"
_NO_TEXTS = ("label", "label_text", "id", "idx")  # keys in the rows of data sets, whose values may be str
_KINDS = {1: "single texts (one column)", 2: "pairs of texts (two columns)"}


def _columns(X: Any, name: str) -> list[list[Any]]:
    """Split a container of any kind into its columns, cells untouched."""
    if isinstance(X, str | bytes) or X is None or np.isscalar(X):
        raise InputTypeError(
            f"{name} is a single {type(X).__name__}, not a collection of texts. {_EXPECTED}; "
            "for one text pass a list: [text]."
        )
    if isinstance(X, set | frozenset):
        raise InputTypeError(f"{name} is a {type(X).__name__}, which has no order of rows. {_EXPECTED}.")
    if isinstance(X, dict):
        one = f"pass one of its lists, such as {name}['text']"
        raise InputTypeError(f"{name} is a dict. {_EXPECTED}; {one}, or for pairs {_ZIPPED.format(name)}.")
    if type(getattr(X, "dtype", None)).__name__ == "Struct":  # numpy would see columns without names
        raise InputTypeError(f"{name} is a Series of structs. {_EXPECTED}; pass {name}.struct.unnest().")
    if hasattr(X, "toarray") and not hasattr(X, "iloc"):
        raise InputTypeError(f"{name} is a sparse {type(X).__name__} of numbers. {_EXPECTED}.")
    X = unmasked(X)
    if hasattr(X, "iloc") and X.ndim == 2:
        return [np.asarray(X.iloc[:, i].astype(object)).tolist() for i in range(len(X.columns))]
    if hasattr(X, "iloc"):
        return [np.asarray(X.astype(object)).tolist()]
    if isinstance(X, list | tuple):
        return _columns_of_rows(X, name)
    if hasattr(X, "__array__") or hasattr(X, "__array_interface__"):
        return _columns_of_array(as_array(X), name)
    if isinstance(X, Sequence):
        return _columns_of_rows(rows_of(X), name)
    raise InputTypeError(f"{name} is a {type(X).__name__}. {_EXPECTED}; {_as_a_container(X)}.")


def _as_a_container(X: Any) -> str:
    """Advice on how to get rows from a table, query, stream or iterator."""
    # Spark, polars, Arrow, DuckDB.
    kinds = {"toPandas": "Spark table", "collect": "lazy table", "read_all": "stream", "df": "query"}
    for method, kind in kinds.items():
        if hasattr(X, method):
            return f"from a {kind} pass X.{method}()['text']"
    if hasattr(X, "column_names"):
        return f"from a table pass a column, such as X['text'], or for pairs {_ZIPPED.format('X')}"
    return "for an iterator pass list(X)"


def _columns_of_array(array: np.ndarray, name: str) -> list[list[Any]]:
    if array.ndim == 0:
        raise InputError(f"{name} is a 0-dimensional array (one value). {_EXPECTED}.")
    if array.ndim == 1:
        return [array.tolist()]
    if array.ndim == 2:
        return [array[:, i].tolist() for i in range(array.shape[1])]
    raise InputError(f"Found array with dim {array.ndim}. {_EXPECTED}.")


def _columns_of_rows(rows: Sequence[Any], name: str) -> list[list[Any]]:
    """A list of str is one column; a list of equally long tuples or lists is that many columns."""
    if len(rows) == 0 or not is_row(rows[0]):
        return [list(rows)]
    width = len(rows[0])
    for number, row in enumerate(rows):
        if not is_row(row) or len(row) != width:
            of_tokens = is_row(row) and max(width, len(row)) > 2
            remedy = f"join lists of tokens first: [' '.join(row) for row in {name}]"
            raise InputTypeError(
                f"Row {number} of {name} is {_describe(row)}, but row 0 is a {type(rows[0]).__name__} of "
                f"length {width}. {_EXPECTED}; {remedy if of_tokens else 'all rows must have the same form'}."
            )
    return [[row[i] for row in rows] for i in range(width)]


def _check_cells(column: list[Any], number: int | None, name: str, filled: str) -> None:
    # One pass at C speed for the usual case; the slow loop only finds which row to name.
    if set(map(type, column)) == {str}:
        return
    for row, cell in enumerate(column):
        if not isinstance(cell, str):
            where = f"row {row}" if number is None else f"row {row}, column {number}"
            raise InputTypeError(
                f"{name} has {_describe(cell)} at {where}, where a str is expected. "
                f"{_remedy(cell, number, filled)}"
            )


def _describe(cell: Any) -> str:
    try:
        shown = repr(cell)
    except Exception:  # of any type: it is foreign code, and the row must be named
        shown = object.__repr__(cell)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return f"{shown} (type {type(cell).__name__})"


def _remedy(cell: Any, column: int | None, filled: str) -> str:
    if isinstance(cell, bytes | bytearray):
        return "Decode it first, for example with .decode('utf-8')."
    if isinstance(cell, list | tuple | np.ndarray):
        return "Pairs need two columns in every row; other lists must be joined into one str first."
    is_nan = isinstance(cell, float) and math.isnan(cell)
    if cell is None or is_nan or type(cell).__name__ in ("NAType", "NaTType"):  # pandas' own
        return f"Missing texts must be dropped or replaced first{filled}."
    if isinstance(cell, dict):
        return _remedy_for_dict(cell)
    # A Series, a column of datasets. The type is asked: what foreign objects answer may be an error.
    if hasattr(type(cell), "__len__") and hasattr(type(cell), "__getitem__"):
        return "Each row is one text, or a pair of texts: two columns of texts are passed as list(zip(*X))."
    if column is not None:
        return (
            "Two columns are read as pairs of texts: for single texts pass the text column alone, for "
            "example X['text']; use scikit-learn's ColumnTransformer for other columns "
            "(docs/recipes.md). Convert numbers that are meant as text with str() (the argument must be a "
            "string, not a number)."
        )
    return "Convert it with str() if it is meant as text (the argument must be a string, not a number)."


def _remedy_for_dict(row: dict[Any, Any]) -> str:
    keys = [key for key, value in row.items() if isinstance(value, str) and key not in _NO_TEXTS]
    if "text" in keys:
        keys = [key for key in ("text", "text_pair") if key in keys]
    if len(keys) == 2:
        pair = ", ".join(f"row[{key!r:.60}]" for key in keys)
        return f"Extract the texts from each row, pairs with [({pair}) for row in X]."
    key = keys[0] if keys else "text"
    return f"Extract the text from each row, for example with [row[{key!r:.60}] for row in X]."


def _shape(X: Any) -> tuple[int, ...]:
    return tuple(getattr(X, "shape", (len(X),)))
