"""From whatever a user passes as y to class codes and weights.

1. y is one label per text ("binary", "multiclass"), or an indicator matrix ("multilabel-indicator"), in the
   words of scikit-learn's `type_of_target`.
2. Labels become codes into the sorted classes; an indicator matrix is its own code.
3. Sample weights and class weights become one weight per text, or per text and label.

The way back, from logits to labels, is in `outputs.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn import config_context
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, column_or_1d

from skbert.exceptions import InputError

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
def _as_input_error() -> Iterator[None]:
    """Keep scikit-learn's words about labels and weights, but make them skbert's error."""
    try:
        # Up to scikit-learn 1.8, dispatching functions refuse lists.
        with config_context(array_api_dispatch=False):
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
    with _as_input_error():
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


def row_weights(labels: Labels, sample_weight: Any, class_weight: Any) -> np.ndarray:
    """Weight of every text: sample weight times class weight.

    Parameters
    ----------
    labels : Labels
    sample_weight : array-like of shape (n_samples,) or None
    class_weight : dict, "balanced" or None
        For an indicator matrix: the weight of a label where it is 1, by column; "balanced" is the ratio of
        its zeros to its ones.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_labels), float64
    """
    with _as_input_error():
        weights = _check_sample_weight(
            sample_weight, labels.codes, dtype=np.float64, ensure_non_negative=True
        )
    if not weights.any():
        raise InputError("All sample weights are zero, so there is nothing to learn from.")
    if labels.codes.ndim == 2:
        weights = weights[:, None] * _label_weights(labels, weights, class_weight)
    else:
        weights = weights * _weight_of_classes(labels, weights, class_weight)[labels.codes]
        kept = np.unique(labels.codes[weights > 0])
        if len(kept) < 2:
            raise InputError(
                "The number of classes has to be greater than one; after sample_weight and class_weight only "
                f"{labels.classes[kept].tolist()} have rows of a weight above zero. Give weight to at least "
                "two classes."
            )
    if not np.finfo(np.float32).tiny < weights.sum() < np.finfo(np.float32).max:
        raise InputError(
            f"The weights add up to {weights.sum():g}, too large or too small to compute with. Scale "
            "them to a mean near one."
        )
    return weights


def _weight_of_classes(labels: Labels, weights: np.ndarray, class_weight: Any) -> np.ndarray:
    """Weight of each class, (n_classes,)."""
    per_class = np.ones(len(labels.classes))
    if class_weight is None:
        return per_class
    rows, present = np.arange(len(weights)), np.arange(len(labels.classes))
    if class_weight == "balanced":  # a class whose rows all have weight zero has no frequency
        rows = np.flatnonzero(weights)
        present = np.unique(labels.codes[rows])
    with _as_input_error():
        per_class[present] = compute_class_weight(
            class_weight,
            classes=labels.classes[present],
            y=labels.classes[labels.codes[rows]],
            sample_weight=weights[rows],
        )
    return _checked_class_weights(per_class, labels)


def _label_weights(labels: Labels, weights: np.ndarray, class_weight: Any) -> np.ndarray:
    """Weight of each label of each text, (n_samples, n_labels): 1 where the label is 0."""
    ones = np.ones(len(labels.classes))
    if class_weight == "balanced":
        positive = weights @ labels.codes
        with np.errstate(divide="ignore"):
            ones = (weights.sum() - positive) / positive
    elif class_weight is not None:
        unknown = set(class_weight) - set(labels.classes.tolist())
        if unknown:
            raise InputError(
                f"class_weight names {sorted(unknown, key=str)}, but y has the columns 0 to {len(ones) - 1}."
            )
        ones = np.array([class_weight.get(label, 1.0) for label in labels.classes.tolist()], dtype=float)
    return np.where(labels.codes == 1, _checked_class_weights(ones, labels), 1.0)


def _checked_class_weights(per_class: np.ndarray, labels: Labels) -> np.ndarray:
    if not (np.isfinite(per_class).all() and (per_class >= 0).all()):
        raise InputError(
            f"class_weight gives the weights {per_class.tolist()} to the classes "
            f"{labels.classes.tolist()}; expected finite weights of zero or more."
        )
    return per_class
