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
from skbert.exceptions import InputError, holding_warning_filters

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
        If y is missing, of another length, has missing values, is not a classification target, holds
        fewer than two classes, or has a label that never occurs.
    """
    if y is None:
        raise InputError(
            "BertClassifier requires y to be passed, but the target y is None. Pass one label per text."
        )
    values = _checked_values(y, n_texts, "(texts in X, labels in y)")
    if values.ndim == 2:
        absent = np.flatnonzero(~values.any(axis=0))
        if len(absent):
            raise InputError(
                f"The labels in columns {absent[:5].tolist()} of y never occur, so there is nothing to learn "
                "about them. Leave these columns out."
            )
        return Labels(values, np.arange(values.shape[1]), "multilabel-indicator")
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            f"The number of classes has to be greater than one; got {len(classes)} class: y holds only "
            f"{classes.tolist()[0]!r}. A classifier needs examples of at least two classes."
        )
    kind: TargetType = "binary" if len(classes) == 2 else "multiclass"
    return Labels(codes.reshape(-1).astype(np.int64), classes, kind)


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
    held_out = check_texts(X)
    check_same_columns(held_out, texts.n_columns)
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
    values = _checked_values(y, n_texts, "(texts in X_val, labels in y_val)")
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


def _checked_values(y: Any, n_texts: int, what: str) -> np.ndarray:
    with as_input_error():
        values = _label_values(y)
    if len(values) != n_texts:
        raise InputError(
            f"Found input variables with inconsistent numbers of samples: [{n_texts}, {len(values)}] {what}."
        )
    return values


def _label_values(y: Any) -> np.ndarray:
    """Comparable label values (1-D) or an indicator matrix, or an error that says what is wrong with y."""
    missing = _first_missing(y)
    if missing is not None:
        raise InputError(
            f"Input y contains NaN (a missing label) at row {missing}. Drop the rows without a label."
        )
    if len({isinstance(label, str) for label in _loose_labels(y)}) == 2:
        raise InputError(
            "y mixes str labels with labels of other types, so their order is undefined. "
            "Convert all of them with str()."
        )
    if not hasattr(y, "toarray"):
        array = np.asarray(y)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            raise InputError(f"Input y contains infinity at row {row}. Labels must be finite.")
    if hasattr(y, "iloc") and type_of_target(np.asarray(y.iloc[:1])) == "unknown":
        y = y.astype(object).to_numpy()
    target = type_of_target(y, input_name="y")
    if target == "multilabel-indicator":
        return np.asarray(y.toarray() if hasattr(y, "toarray") else y).astype(np.int64)
    if target in ("multiclass-multioutput", "continuous-multioutput"):
        raise InputError(
            f"y is a 2-D target ({target}). Expected one label per text, a 1-D array; or, for several labels "
            "per text, an indicator matrix of 0 and 1 (see scikit-learn's MultiLabelBinarizer)."
        )
    values = column_or_1d(np.asarray(y), warn=True)
    check_classification_targets(values)
    return values


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
