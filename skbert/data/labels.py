"""From the labels in y (`targets.py`) to class codes.

1. y is one label per text ("binary", "multiclass"), or an indicator matrix ("multilabel-indicator"), in the
   words of scikit-learn's `type_of_target`.
2. Labels become codes into the sorted classes; an indicator matrix is its own code.
3. A model that continues training knows its classes: `encode_known_labels` accepts no others.

Weights are in `weights.py`; the way back, from logits to labels, is in `outputs.py`.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.exceptions import DataConversionWarning

from skbert.data.columns import are_numbered, check_same_columns, names_of_columns
from skbert.data.label_codes import codes_in, kind_of, listed, remedy_for
from skbert.data.targets import as_input_error, class_values, knowing_classes, label_values
from skbert.exceptions import InputError, shown, warn

LabelsType = Literal["binary", "multiclass", "multilabel-indicator"]

# By the name of the labels, or else of the classes: what knows these, and what to do about unknown ones.
_KNOWN_TO = {
    "y": (
        "the model",
        "For other classes, fit a new model on old and new texts; it can start from the encoder of this one "
        "(save_encoder).",
    ),
    "classes": ("the argument classes", "Name all labels in it that any call of partial_fit will have."),
    "y_val": ("y", "Validation labels must be classes that occur in y."),
}


@dataclass(frozen=True, slots=True)
class Labels:
    """Codes of every text, and the classes they stand for."""

    codes: np.ndarray  # (n_samples,) int64: places in `classes`; or (n_samples, n_labels) int64: 0 and 1
    classes: np.ndarray  # (n_classes,), sorted; for an indicator matrix its columns' names, or numbers
    target_type: LabelsType

    @property
    def n_outputs(self) -> int:
        """Logits per text; two for binary labels, as transformers' own heads have."""
        return len(self.classes)

    @property
    def names(self) -> np.ndarray | None:
        """Names of the label columns, if they have some."""
        return self.classes if self.codes.ndim == 2 and not are_numbered(self.classes.tolist()) else None

    @property
    def targets(self) -> np.ndarray:
        """What the loss reads."""
        return self.codes

    def values(self, rows: np.ndarray) -> np.ndarray:
        """The labels of some rows, as the user gave them."""
        chosen = self.codes[rows]
        return chosen if self.target_type == "multilabel-indicator" else self.classes[chosen]

    def of_held_out(self, y: Any, n_texts: int) -> np.ndarray:
        """Labels of texts to validate on, of which training must have seen every class."""
        return _known_values(y, n_texts, self, "y_val", "y_val")[0]

    def attributes(self) -> dict[str, Any]:
        """What a fitted estimator keeps."""
        return {"classes_": self.classes, "target_type_": self.target_type}


def encode_labels(y: Any, n_texts: int) -> Labels:
    """Check y and turn it into codes.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_labels)
        Labels: str, int, bool or a pandas Categorical; or an indicator matrix of 0 and 1, dense or sparse.
    n_texts : int
        Number of texts that y must match.

    Raises
    ------
    InputError
        If y is missing, of another length, has missing values, is not a classification target, or holds
        nothing to tell apart: fewer than two classes, or labels that are the same for every text.

    Warns
    -----
    SkbertWarning
        If a label of an indicator matrix never occurs, as may happen to a rare label in some folds.
    """
    values = _checked_values(y, n_texts, "y")
    if values.ndim == 2:
        columns = _columns(y, values)
        check_something_to_learn(values, columns)
        return Labels(values, columns, "multilabel-indicator")
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            f"The number of classes has to be greater than one; got {len(classes)} class: y holds only "
            f"{listed(classes)[0]!r}. A classifier needs examples of at least two classes."
        )
    kind: LabelsType = "binary" if len(classes) == 2 else "multiclass"
    return Labels(codes.astype(np.int64), classes, kind)


def _columns(y: Any, indicator: np.ndarray) -> np.ndarray:
    """Names of the labels of an indicator matrix: those of its columns, or else their numbers."""
    names = names_of_columns(y)
    return np.arange(indicator.shape[1]) if names is None else names


def check_something_to_learn(indicator: np.ndarray, columns: np.ndarray) -> None:
    """Refuse an indicator matrix of labels that all texts have, or none; warn of labels that no text has."""
    absent = np.flatnonzero(~indicator.any(axis=0))
    if len(absent) + indicator.all(axis=0).sum() == indicator.shape[1]:
        raise InputError(
            f"Each of the {indicator.shape[1]} labels in y is the same for all {len(indicator)} texts, so "
            "there is nothing to learn. Pass both texts that have a label and texts that do not."
        )
    if len(absent):
        warn(
            f"The labels in columns {shown(columns[absent].tolist(), 5)} of y never occur: the model can "
            "only learn to predict 0 for them. Leave these columns out, or add texts with these labels."
        )


def known_labels(classes: Any, y: Any) -> Labels:
    """The classes that the first call of `partial_fit` names, without any text.

    Parameters
    ----------
    classes : array-like of shape (n_classes,) or None
        May be None if y is an indicator matrix.
    y : array-like
        Labels of the first texts.
    """
    with as_input_error(), knowing_classes():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataConversionWarning)  # encode_known_labels reads y again
            values = label_values(y)
        if values.ndim == 2:
            found = _columns(y, values)
            if classes is not None and {*np.asarray(classes).tolist()} != {*found.tolist()}:
                raise InputError(
                    f"classes={np.asarray(classes).tolist()}, but y is an indicator matrix with the columns "
                    f"{shown(found.tolist())}. Leave classes out."
                )
            return Labels(values[:0], found, "multilabel-indicator")
        if classes is None:
            raise InputError(
                "classes must be passed on the first call to partial_fit: all labels that any call will have."
            )
        found = class_values(classes)
    if len(found) < 2:
        raise InputError(f"classes={found.tolist()}; expected at least two classes.")
    return Labels(np.empty(0, np.int64), found, "binary" if len(found) == 2 else "multiclass")


def check_same_classes(classes: Any, known: Labels) -> None:
    """Refuse classes other than those of the model; None names none."""
    if classes is None:
        return
    with as_input_error():
        named = class_values(classes)
        same = len(named) == len(known.classes) and (codes_in(named, known.classes) >= 0).all()
    if not same:
        raise InputError(
            f"classes={shown(listed(named))} are not those of the model, {shown(listed(known.classes))}, "
            f"which cannot change. Leave classes out to continue with these. {_KNOWN_TO['y'][1]}"
        )


def encode_known_labels(y: Any, n_texts: int, known: Labels, *, are_fitted: bool = True) -> Labels:
    """Labels of texts that a model with these classes, fitted or only named so far, is trained on.

    Raises
    ------
    InputError
        If y holds an unknown class, or has another form.
    """
    _, codes = _known_values(y, n_texts, known, "y", "y" if are_fitted else "classes")
    return Labels(codes, known.classes, known.target_type)


def _known_values(y: Any, n_texts: int, known: Labels, name: str, to: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels that must be of known classes, and their codes; for an indicator matrix both are the matrix."""
    values = _values_like(y, n_texts, known, name)
    if values.ndim == 2:
        return values, values
    with as_input_error():
        codes = codes_in(values, known.classes)
    unseen = np.unique(values[codes < 0])
    if len(unseen):
        who, remedy = _KNOWN_TO[to]
        raise InputError(
            f"{name} has classes that {who} does not: {shown(listed(unseen), 5)}; {who} has "
            f"{shown(listed(known.classes))}. {remedy_for(unseen, known.classes) or remedy}"
        )
    return values, codes


def labels_to_score(y: Any, n_texts: int, known: Labels) -> np.ndarray:
    """Labels to compare predictions with: they may be of other classes, but not of another form or kind."""
    values = _values_like(y, n_texts, known, "y")
    if values.ndim == 1 and kind_of(values) != kind_of(known.classes):
        remedy = remedy_for(values, known.classes) or "Pass labels of the same type."
        raise InputError(
            f"y has labels such as {_example(values)}, but the model has classes such as "
            f"{_example(known.classes)}. {remedy}"
        )
    return values


def _example(labels: np.ndarray) -> str:
    label = labels[0]
    return f"{repr(str(label)) if isinstance(label, str) else label} ({type(label).__name__})"


def _values_like(y: Any, n_texts: int, known: Labels, name: str) -> np.ndarray:
    """Labels, or an indicator matrix with the known columns."""
    values = _checked_values(y, n_texts, name, known=True)
    if values.shape[1:] != known.codes.shape[1:]:
        raise InputError(
            f"{name} has the shape {values.shape}, but {_KNOWN_TO[name][0]} has the target type "
            f"{known.target_type!r} and {len(known.classes)} classes. Pass labels of the same form."
        )
    if values.ndim == 2:
        check_same_columns(y, known.names, name)
    return values


def _checked_values(y: Any, n_texts: int, name: str, *, known: bool = False) -> np.ndarray:
    with as_input_error(), knowing_classes() if known else nullcontext():
        values = label_values(y, name)
    if len(values) != n_texts:
        raise InputError(
            f"Found input variables with inconsistent numbers of samples: [{n_texts}, {len(values)}] "
            f"(texts in {name.replace('y', 'X')}, labels in {name})."
        )
    return values
