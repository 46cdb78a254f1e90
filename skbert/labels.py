"""Labels: their kinds, how they become numbers, their loss, and the way back.

A label kind is one place in each of five small functions: `encode_labels` (y → codes), `row_weights`,
`make_loss` (what training minimises), `probabilities` and `decision_values` (logits → what users see).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn import config_context
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, column_or_1d

from skbert.exceptions import InputError

if TYPE_CHECKING:
    import torch

    LossFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Labels:
    """Class codes of every row, and the sorted classes they point into."""

    codes: np.ndarray  # (n_samples,) int64
    classes: np.ndarray  # (n_classes,)
    kind: Literal["binary", "multiclass"]

    @property
    def n_outputs(self) -> int:
        """Logits per text; two for binary labels, as transformers' own heads have."""
        return len(self.classes)


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
    """Check y and turn it into class codes.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels: str, int, bool or a pandas Categorical.
    n_texts : int
        Number of texts that y must match.

    Returns
    -------
    Labels

    Raises
    ------
    InputError
        If y is missing, of another length, has missing values, is not a classification target, or
        holds fewer than two classes.
    """
    if y is None:
        raise InputError(
            "BertClassifier requires y to be passed, but the target y is None. Pass one label per text."
        )
    with _as_input_error():
        values = _label_values(y)
    if len(values) != n_texts:
        raise InputError(
            "Found input variables with inconsistent numbers of samples: "
            f"[{n_texts}, {len(values)}] (texts in X, labels in y)."
        )
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            f"The number of classes has to be greater than one; got {len(classes)} class: y holds only "
            f"{classes.tolist()[0]!r}. A classifier needs examples of at least two classes."
        )
    kind: Literal["binary", "multiclass"] = "binary" if len(classes) == 2 else "multiclass"
    return Labels(codes.reshape(-1).astype(np.int64), classes, kind)


def check_validation_labels(y: Any, n_texts: int, classes: np.ndarray) -> np.ndarray:
    """Labels of validation texts, of which training must have seen every class.

    Raises
    ------
    InputError
        If they are missing, of another length, or hold a class that y does not.
    """
    if y is None:
        raise InputError("X_val was given without y_val. Pass the labels of the validation texts as y_val.")
    with _as_input_error():
        values = _label_values(y)
    if len(values) != n_texts:
        raise InputError(
            "Found validation data with inconsistent numbers of samples: "
            f"[{n_texts}, {len(values)}] (texts in X_val, labels in y_val)."
        )
    unseen = np.setdiff1d(values, classes)
    if len(unseen):
        raise InputError(
            f"y_val has classes that y does not: {unseen[:5].tolist()}. Validation texts must be of classes "
            "that training sees."
        )
    return values


def _label_values(y: Any) -> np.ndarray:
    """A 1-D array of comparable label values, or an error that says what is wrong with y."""
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
    if target in ("multilabel-indicator", "multiclass-multioutput", "continuous-multioutput"):
        raise InputError(
            f"y is a 2-D target ({target}); expected one label per text: a 1-D array of shape (n_samples,)."
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
    """Weight of every row: sample weight times class weight.

    Parameters
    ----------
    labels : Labels
    sample_weight : array-like of shape (n_samples,) or None
    class_weight : dict, "balanced" or None

    Returns
    -------
    ndarray of shape (n_samples,), float64
    """
    with _as_input_error():
        weights = _check_sample_weight(
            sample_weight, labels.codes, dtype=np.float64, ensure_non_negative=True
        )
    if not weights.any():
        raise InputError("All sample weights are zero, so there is nothing to learn from.")
    if class_weight is not None:
        rows = weights > 0  # a class whose rows all have weight zero has no frequency to be balanced by
        present = np.unique(labels.codes[rows])
        per_class = np.ones(len(labels.classes))
        with _as_input_error():
            per_class[present] = compute_class_weight(
                class_weight,
                classes=labels.classes[present],
                y=labels.classes[labels.codes[rows]],
                sample_weight=weights[rows],
            )
        if not (np.isfinite(per_class).all() and (per_class >= 0).all()):
            raise InputError(
                f"class_weight gives the weights {per_class.tolist()} to the classes "
                f"{labels.classes.tolist()}; expected finite weights of zero or more."
            )
        weights = weights * per_class[labels.codes]
    kept = np.unique(labels.codes[weights > 0])
    if len(kept) < 2:
        raise InputError(
            "The number of classes has to be greater than one; after sample_weight and class_weight only "
            f"{labels.classes[kept].tolist()} have rows of a weight above zero. Give weight to at least two "
            "classes."
        )
    if not np.finfo(np.float32).tiny < weights.sum() < np.finfo(np.float32).max:
        raise InputError(
            f"The weights add up to {weights.sum():g}, too large or too small to compute with. Scale "
            "them to a mean near one."
        )
    return weights


def make_loss(label_smoothing: float) -> LossFunction:
    """Mean weighted cross-entropy of one batch; the weights have a mean of one over the data set.

    Parameters
    ----------
    label_smoothing : float
        Probability that the targets share over all classes (Szegedy et al., 2016, arXiv:1512.00567).

    Returns
    -------
    callable
        (logits (n, k), targets (n,), weights (n,)) → loss, a scalar tensor.
    """
    import torch.nn.functional as F

    def loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
        return (losses * weights).mean()

    return loss


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in the dtype of `logits`; rows sum to one."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax, exact where a probability underflows to zero."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def decision_values(logits: np.ndarray) -> np.ndarray:
    """Scores as scikit-learn shapes them: (n,) log-odds of the second class if binary, else (n, k)."""
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits
