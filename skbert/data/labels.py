"""From whatever a user passes as y to class codes.

1. y is one label per text ("binary", "multiclass"), or an indicator matrix ("multilabel-indicator"), in the
   words of scikit-learn's `type_of_target`.
2. Labels become codes into the sorted classes; an indicator matrix is its own code.
3. A model that goes on training knows its classes: `encode_known_labels` takes no others.

What each text weighs is in `weights.py`; the way back, from logits to labels, in `outputs.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn import config_context
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from skbert.data.inputs import Texts, check_same_columns, check_texts
from skbert.exceptions import InputError, holding_warning_filters, warn

TargetType = Literal["binary", "multiclass", "multilabel-indicator"]


@dataclass(frozen=True, slots=True)
class Labels:
    """Codes of every text, and the classes they stand for."""

    codes: np.ndarray  # (n_samples,) int64: places in `classes`; or (n_samples, n_labels) int64: 0 and 1
    classes: np.ndarray  # (n_classes,), sorted; of an indicator matrix the numbers of its columns
    target_type: TargetType

    @property
    def n_outputs(self) -> int:
        """Logits per text; two for binary labels, as transformers' own heads have."""
        return len(self.classes)

    def values(self, rows: np.ndarray) -> np.ndarray:
        """The labels of some rows, as the user gave them."""
        chosen = self.codes[rows]
        return chosen if self.target_type == "multilabel-indicator" else self.classes[chosen]


@contextmanager
def as_input_error() -> Iterator[None]:
    """Keep scikit-learn's words about labels and weights, but make them skbert's error."""
    try:
        # Up to scikit-learn 1.8, dispatching functions refuse lists.
        with holding_warning_filters(), config_context(array_api_dispatch=False):
            yield
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(str(error)) from error


def encode_labels(y: Any, n_texts: int) -> Labels:
    """Check y and turn it into codes.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_labels)
        Labels: str, int, bool or a pandas Categorical; or an indicator matrix of 0 and 1, dense or sparse.
    n_texts : int
        Number of texts that y must match.

    Returns
    -------
    Labels

    Raises
    ------
    InputError
        If y is missing, of another length, has missing values, is not a classification target, or holds
        nothing to tell apart: fewer than two classes, or labels that are the same for every text.

    Warns
    -----
    SkbertWarning
        If a label of an indicator matrix never occurs, as a rare one does not in every fold.
    """
    if y is None:
        raise InputError(
            "BertClassifier requires y to be passed, but the target y is None. Pass one label per text."
        )
    values = _checked_values(y, n_texts, "(texts in X, labels in y)")
    if values.ndim == 2:
        _check_there_is_something_to_learn(values)
        return Labels(values, np.arange(values.shape[1]), "multilabel-indicator")
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            f"The number of classes has to be greater than one; got {len(classes)} class: y holds only "
            f"{classes.tolist()[0]!r}. A classifier needs examples of at least two classes."
        )
    kind: TargetType = "binary" if len(classes) == 2 else "multiclass"
    return Labels(codes.reshape(-1).astype(np.int64), classes, kind)


def _check_there_is_something_to_learn(indicator: np.ndarray) -> None:
    absent = np.flatnonzero(~indicator.any(axis=0))
    if len(absent) + indicator.all(axis=0).sum() == indicator.shape[1]:
        raise InputError(
            f"Each of the {indicator.shape[1]} labels in y is the same for all {len(indicator)} texts, so "
            "there is nothing to tell apart. Pass texts with the labels and without them."
        )
    if len(absent):
        warn(
            f"The labels in columns {absent[:5].tolist()} of y never occur: all that can be learned about "
            "them is to predict 0. Leave these columns out, or add texts of theirs."
        )


def known_labels(classes: Any, y: Any) -> Labels:
    """The classes that the first call of `partial_fit` names, without any text.

    Parameters
    ----------
    classes : array-like of shape (n_classes,) or None
        None is enough where y is an indicator matrix.
    y : array-like
        Labels of the first texts.
    """
    with as_input_error():
        values = _label_values(y)
        if values.ndim == 2:
            found = np.arange(values.shape[1])
            if classes is not None and not np.array_equal(np.unique(classes), found):
                raise InputError(
                    f"classes={np.asarray(classes).tolist()}, but y is an indicator matrix of {len(found)} "
                    "columns. Leave classes out."
                )
            return Labels(values[:0], found, "multilabel-indicator")
        if classes is None:
            raise InputError("classes must be passed on the first call to partial_fit: all labels to come.")
        found = np.unique(_label_values(classes))
    if len(found) < 2:
        raise InputError(f"classes={found.tolist()}; expected at least two classes.")
    return Labels(np.empty(0, np.int64), found, "binary" if len(found) == 2 else "multiclass")


def encode_known_labels(y: Any, n_texts: int, known: Labels) -> Labels:
    """Codes of y in the classes that a model has.

    Raises
    ------
    InputError
        If y holds another class, or has another form.
    """
    values = _checked_values(y, n_texts, "(texts in X, labels in y)")
    if values.ndim == 2:
        _check_columns(values.shape[1] == len(known.classes) and known.codes.ndim == 2, values, known)
        return Labels(values, known.classes, known.target_type)
    _check_columns(known.codes.ndim == 1, values, known)
    unseen = np.setdiff1d(values, known.classes)
    if len(unseen):
        raise InputError(
            f"y has classes that the model does not: {unseen[:5].tolist()}; it has "
            f"{known.classes[:10].tolist()}. With warm_start and partial_fit the classes stay; fit a new "
            "model for others."
        )
    return Labels(np.searchsorted(known.classes, values).astype(np.int64), known.classes, known.target_type)


def _check_columns(fits: bool, values: np.ndarray, known: Labels) -> None:
    if not fits:
        raise InputError(
            f"y has the shape {values.shape}, but the model was fitted with the target type "
            f"{known.target_type!r} and {len(known.classes)} classes. Pass labels of the same form."
        )


def check_held_out(X: Any, y: Any, texts: Texts, labels: Labels) -> tuple[Texts, np.ndarray] | None:
    """Texts and labels to validate on, if there are any: of the same form as those to train on."""
    if X is None and y is None:
        return None
    if X is None:
        raise InputError("y_val was given without X_val. Pass the validation texts as X_val.")
    held_out = check_texts(X, "X_val")
    check_same_columns(held_out, texts.n_columns, "X_val")
    return held_out, check_validation_labels(y, len(held_out), labels)


def check_validation_labels(y: Any, n_texts: int, labels: Labels) -> np.ndarray:
    """Labels of validation texts, of which training must have seen every class.

    Raises
    ------
    InputError
        If they are missing, of another length or form, or hold a class that y does not.
    """
    if y is None:
        raise InputError("X_val was given without y_val. Pass the labels of the validation texts as y_val.")
    values = _checked_values(y, n_texts, "(texts in X_val, labels in y_val)", "y_val")
    if values.shape[1:] != labels.codes.shape[1:]:
        raise InputError(
            f"y_val has the shape {values.shape}, but y {labels.codes.shape}. Both must hold one label per "
            "text, or have the same label columns."
        )
    unseen = np.setdiff1d(values, labels.classes) if values.ndim == 1 else np.empty(0)
    if len(unseen):
        raise InputError(
            f"y_val has classes that y does not: {unseen[:5].tolist()}. Validation texts must be of classes "
            "that training sees."
        )
    return values


def _checked_values(y: Any, n_texts: int, what: str, name: str = "y") -> np.ndarray:
    with as_input_error():
        values = _label_values(y, name)
    if len(values) != n_texts:
        raise InputError(
            f"Found input variables with inconsistent numbers of samples: [{n_texts}, {len(values)}] {what}."
        )
    return values


def _label_values(y: Any, name: str = "y") -> np.ndarray:
    """Comparable label values (1-D) or an indicator matrix, or an error that says what is wrong with y."""
    _check_no_tag_lists(y, name)
    missing = _first_missing(y)
    if missing is not None:
        raise InputError(
            f"Input {name} contains NaN (a missing label) at row {missing}. Drop the rows without a label."
        )
    if len({isinstance(label, str) for label in _loose_labels(y)}) == 2:
        raise InputError(
            f"{name} mixes str labels with labels of other types, so their order is undefined. "
            "Convert all of them with str()."
        )
    if not hasattr(y, "toarray"):
        _check_finite(np.asarray(y), name)
    if hasattr(y, "iloc") and type_of_target(np.asarray(y.iloc[:1])) == "unknown":
        y = y.astype(object).to_numpy()
    target = type_of_target(y, input_name=name)
    if target == "multilabel-indicator":
        return _checked_indicator(np.asarray(y.toarray() if hasattr(y, "toarray") else y), name)
    if target in ("multiclass-multioutput", "continuous-multioutput"):
        raise InputError(
            f"{name} is a 2-D target ({target}). Expected one label per text, a 1-D array; or, for several "
            "labels per text, an indicator matrix of 0 and 1 (see scikit-learn's MultiLabelBinarizer)."
        )
    values = column_or_1d(np.asarray(y), warn=True)
    check_classification_targets(values)
    return values


def _checked_indicator(matrix: np.ndarray, name: str) -> np.ndarray:
    """The matrix, if it is one of 0 and 1: scikit-learn calls any matrix of two values an indicator."""
    found = np.unique(matrix)
    if not np.isin(found, (0, 1)).all():
        raise InputError(
            f"{name} is a matrix of the values {found[:5].tolist()}. Expected an indicator matrix of 0 and "
            "1: 1 where a text has a label."
        )
    return matrix.astype(np.int64)


def _check_finite(labels: np.ndarray, name: str) -> None:
    if labels.dtype.kind != "f" or np.isfinite(labels).all():
        return
    row = int(np.flatnonzero(~np.isfinite(labels).reshape(len(labels), -1).all(axis=1))[0])
    what = "NaN (a missing label)" if np.isnan(labels[row]).any() else "infinity"
    raise InputError(f"Input {name} contains {what} at row {row}. Labels must be finite.")


def _check_no_tag_lists(y: Any, name: str) -> None:
    """Refuse a list of the labels of each text, which numpy would only call inhomogeneous."""
    rows = _loose_labels(y)
    lists = [isinstance(row, list | tuple | np.ndarray) for row in rows]
    ragged = all(lists) and len({len(row) for row in rows}) > 1
    if ragged or any(isinstance(row, set | frozenset) for row in rows):
        raise InputError(
            f"{name} holds the labels of each text as a {type(rows[0]).__name__}, for example "
            f"{str(rows[0])[:60]} at row 0. Expected an indicator matrix: "
            f"MultiLabelBinarizer().fit_transform({name}), of sklearn.preprocessing."
        )


def _loose_labels(y: Any) -> list[Any]:
    """Labels that no dtype holds together: those of a list, or of a 1-D object array or Series."""
    if isinstance(y, list | tuple):
        return list(y)
    is_object = str(getattr(y, "dtype", "")) == "object" and getattr(y, "ndim", 1) == 1
    return np.asarray(y).tolist() if is_object else []


def _first_missing(y: Any) -> int | None:
    import pandas as pd

    if getattr(y, "ndim", 1) != 1 or hasattr(y, "toarray"):
        return None
    flags = np.asarray(pd.isna(np.asarray(y) if not hasattr(y, "iloc") else y))
    rows = np.flatnonzero(flags.reshape(-1)) if flags.ndim else np.array([], dtype=int)
    return int(rows[0]) if len(rows) else None
