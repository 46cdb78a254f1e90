"""Did the fit learn anything? Some models fall into predicting one class for every text.

1. `constant_loss` is the training loss of the best prediction that looks at no text: the class frequencies.
2. Only a fit whose loss ends near it is suspected; its model then predicts some of the training texts, of
   every class as many, a few first: most models tell those apart, and the others need not be run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skbert.data.outputs import decode, probabilities
from skbert.exceptions import CollapseWarning, warn
from skbert.inference import release, run_model
from skbert.network.memory import is_out_of_memory

if TYPE_CHECKING:
    from skbert.data.labels import Labels
    from skbert.network.model import SequenceClassifier
    from skbert.runtime import Runtime
    from skbert.training.loop import TrainingData

_SUSPICIOUS = 0.9  # of the constant prediction's loss
_FEW, _MAX_TEXTS = 16, 64


def warn_of_collapse(
    model: SequenceClassifier,
    last_loss: float,
    data: TrainingData,
    labels: Labels,
    label_smoothing: float,
    runtime: Runtime,
) -> None:
    """Warn if the fitted model predicts the same for training texts whose labels differ.

    Parameters
    ----------
    model : SequenceClassifier
    last_loss : float
        Training loss of the last epoch.
    data : TrainingData
    labels : Labels
    label_smoothing : float
    runtime : Runtime
    """
    constant = constant_loss(data.targets, data.weights, labels.n_outputs, label_smoothing)
    if last_loss < _SUSPICIOUS * constant:
        return
    rows = texts_of_all_classes(data.targets, _MAX_TEXTS)
    if not _differ(data.targets[rows]):
        return

    def predict(some: np.ndarray) -> np.ndarray:
        logits = run_model(model, data.encodings.take(some), runtime)
        return decode(probabilities(logits, labels.target_type), labels.classes, labels.target_type)

    try:
        predicted = predict(rows[:_FEW])
        if not _differ(predicted) and len(rows) > _FEW:
            predicted = np.concatenate([predicted, predict(rows[_FEW:])])
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return  # what was trained is worth more than to know whether it has learned
        raise
    finally:
        release(model)
    if not _differ(predicted):
        same, n_texts = np.asarray(predicted[0]).tolist(), len(np.unique(data.encodings.owners[rows]))
        warn(
            f"The model predicts {same!r} for all of {n_texts} training texts; its loss ended at "
            f"{last_loss:.3f}, where class frequencies alone give {constant:.3f}. It has learned "
            f"nothing yet: try more epochs or another learning_rate{_or_weights(data, labels)}.",
            CollapseWarning,
        )


def _or_weights(data: TrainingData, labels: Labels) -> str:
    """What else may help, where some classes are more frequent than others."""
    if (data.class_weights != 1.0).any():
        return ""
    weights = data.weights.sum(axis=0)
    if data.targets.ndim == 1:
        weights = np.bincount(data.targets, weights=data.weights, minlength=labels.n_outputs)
        uneven = weights.max() > 1.5 * weights.min()
    else:
        ones = (data.weights * data.targets).sum(axis=0)
        uneven = bool((3 * ones < weights).any())
    return ", or class_weight='balanced'" if uneven else ""


def texts_of_all_classes(targets: np.ndarray, n_texts: int) -> np.ndarray:
    """Rows of so many texts at most: one of each class, or set of labels, then a second one of each, ...

    Parameters
    ----------
    targets : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    n_texts : int

    Returns
    -------
    ndarray of int
    """
    codes = np.unique(targets, axis=0, return_inverse=True)[1].reshape(-1)
    by_class = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)  # of each in its class
    return by_class[np.argsort(rank, kind="stable")][:n_texts]


def constant_loss(targets: np.ndarray, weights: np.ndarray, n_outputs: int, label_smoothing: float) -> float:
    """Mean weighted cross-entropy of the class frequencies, or of each label's, smoothed as the targets are.

    Parameters
    ----------
    targets, weights : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    n_outputs : int
    label_smoothing : float
    """
    if targets.ndim == 2:
        of_labels = weights.sum(axis=0)
        counted = of_labels > 0
        ones = (weights * targets).sum(axis=0)[counted] / of_labels[counted]
        p = ones * (1 - label_smoothing) + label_smoothing / 2
        return float(np.average(_entropy_terms(p) + _entropy_terms(1 - p), weights=of_labels[counted]))
    frequencies = np.bincount(targets, weights=weights, minlength=n_outputs) / weights.sum()
    smooth = frequencies * (1 - label_smoothing) + label_smoothing / n_outputs
    return float(_entropy_terms(smooth).sum())


def _entropy_terms(p: np.ndarray) -> np.ndarray:
    return -p * np.log(np.maximum(p, np.finfo(float).tiny))


def _differ(rows: np.ndarray) -> bool:
    return bool((rows != rows[0]).any())
