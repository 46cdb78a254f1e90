"""A head that starts from what the frozen encoder already knows.

Linear probing, then fine-tuning (Kumar et al., 2022, arXiv:2202.10054): a randomly initialized head first has
to learn every class from noise, and while it does, its noise moves the encoder. With many classes and few
rows, a fine-tuned model ends far below logistic regression on the frozen embedding (docs/defaults.md).

1. The frozen encoder embeds the training texts (without dropout), or 20,000 of them.
2. `generalizes` checks whether scikit-learn's LogisticRegression on a part of them predicts the rest better
   than the class frequencies do (for numbers: Ridge, better than their mean). Where it does not, since the
   embeddings say nothing about the labels, its large weights would fit noise, and a small random head is the
   better start.
3. `init_from_probe` fits it on all of them, and its coefficients become the head's weights.

The probe is a start, not a solution: a probe that fits its texts leaves the encoder nothing to learn from
them. Its L2 penalty therefore grows with the number of rows, as if there were 30 of each class, or 3 in all
for numbers (docs/defaults.md).
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from skbert.data.numbers import are_numbers
from skbert.data.outputs import log_probabilities
from skbert.network.model import SequenceClassifier
from skbert.process.float_errors import ignoring_float_errors
from skbert.process.warning_filters import holding_warning_filters

_MAX_ROWS = 20_000  # bounds the cost of the start on large data
_MAX_ROWS_TO_ASK = 2_000
_ROWS_PER_CLASS = 30.0  # for which scikit-learn's default penalty, C = 1, is right
_ROWS_OF_NUMBERS = 3.0  # the same for Ridge's, alpha = 1: squared errors leave a weaker start


def choose_rows(n_texts: int, generator: np.random.Generator) -> np.ndarray:
    """Rows that the probe sees: all, or a random `_MAX_ROWS` of them, in their order."""
    if n_texts <= _MAX_ROWS:
        return np.arange(n_texts)
    return np.sort(generator.choice(n_texts, _MAX_ROWS, replace=False))


@ignoring_float_errors
def generalizes(
    embeddings: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    n_outputs: int,
    generator: np.random.Generator,
    groups: np.ndarray | None = None,
    texts: np.ndarray | None = None,
) -> bool:
    """Whether a probe on most rows, some two thirds, predicts the others better than a constant prediction.

    They are compared by log loss (numbers by squared error), on rows of classes that both parts have. With
    too few rows to tell, the answer is yes. No text, and so no window of it, is in both parts.

    Parameters
    ----------
    embeddings : ndarray of shape (n_samples, hidden_size)
    targets, weights : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Class codes, an indicator matrix, or numbers; weights of the same shape.
    n_outputs : int
    generator : numpy.random.Generator
        Draws the parts.
    groups : ndarray of shape (n_samples,), int64, default=None
        Index of each row's text, or group of texts; None where all texts are distinct.
    texts : ndarray of shape (n_samples,), int64, default=None
        Index of each row's text, if `groups` are others: a text of both parts is not asked about.
    """
    fit, held = _parts(np.arange(len(targets)) if groups is None else groups, generator)
    if texts is not None:
        held = held[~np.isin(texts[held], texts[fit])]
        if len(held) == 0:  # the groups share all of their texts
            fit, held = _parts(texts, generator)
    if targets.ndim == 1:
        held = held[np.isin(targets[held], targets[fit])]
    if len(held) == 0 or len(np.unique(targets[fit])) < 2:
        return True
    coefficients, intercepts = fit_probe(embeddings[fit], targets[fit], weights[fit], n_outputs)
    probe = _log_likelihood(embeddings[held] @ coefficients.T + intercepts, targets[held])
    constant = _log_likelihood(
        np.broadcast_to(_constant(targets[fit], weights[fit], n_outputs), (len(held), n_outputs)),
        targets[held],
    )
    return bool(np.average(probe - constant, weights=weights[held]) > 0)


def _parts(groups: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and rows held out: of whole groups in random order, as many as fit into a third.

    If none does, the smallest group is held out; of fewer than three rows, none.
    """
    order, sizes = generator.permutation(int(groups.max()) + 1), np.bincount(groups)
    n_rows = min(len(groups), _MAX_ROWS_TO_ASK)
    third = n_rows // 3
    # In random order: that of the groups will do where there are as many.
    rows = order if len(order) == len(groups) else generator.permutation(len(groups))
    if third == 0:
        return rows, rows[:0]
    held, n_held = [], 0
    for group in order[sizes[order] > 0].tolist():
        if n_held + sizes[group] <= third:
            held.append(group)
            n_held += sizes[group]
        if n_held == third:
            break
    held = held or [int(np.where(sizes > 0, sizes, len(groups) + 1).argmin())]
    is_held = np.isin(groups[rows], held)
    of_held = rows[is_held] if len(rows) == n_rows else rows[is_held][:third]
    return rows[~is_held][: n_rows - len(of_held)], of_held


@ignoring_float_errors
def init_biases(
    model: SequenceClassifier, targets: np.ndarray, weights: np.ndarray, class_weights: np.ndarray
) -> None:
    """Start the biases of a new head where a few steps would not bring them.

    Classes start at their log weights, where the loss treats all of them alike; numbers at their mean; labels
    of an indicator matrix at their smoothed log-odds (Lin et al., 2017, arXiv:1708.02002). Most labels are
    rare, and from even odds a short training would learn no more than that.

    Parameters
    ----------
    model : SequenceClassifier
    targets, weights : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        The weights include those of the classes.
    class_weights : ndarray of shape (n_outputs,)
    """
    biases = np.log(class_weights) if targets.ndim == 1 else _constant(targets, weights, targets.shape[1])
    with torch.no_grad():
        model.head.bias.copy_(torch.from_numpy(biases))


def init_from_probe(
    model: SequenceClassifier, embeddings: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> bool:
    """Set the head's weights to those of a logistic, or ridge, regression on `embeddings`.

    Parameters
    ----------
    model : SequenceClassifier
        Its head has the biases that `init_biases` gave it.
    embeddings : ndarray of shape (n_samples, hidden_size)
        Pooled vectors of the frozen encoder.
    targets, weights : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Class codes, an indicator matrix, or numbers.

    Returns
    -------
    bool
        False if the rows hold only one class or number, so that there is nothing to tell apart: the head is
        unchanged.
    """
    if len(np.unique(targets)) < 2:
        return False
    coefficients, intercepts = fit_probe(embeddings, targets, weights, model.head.out_features)
    if targets.ndim == 1:  # a class without a row starts below the others by as much as it weighs less
        without = np.setdiff1d(np.arange(len(intercepts)), targets)
        given = model.head.bias.detach().double().numpy()
        intercepts[without] += given[without] - given.max()
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(coefficients))
        model.head.bias.copy_(torch.from_numpy(intercepts))
    return True


@ignoring_float_errors
def fit_probe(
    embeddings: np.ndarray, targets: np.ndarray, weights: np.ndarray, n_outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """The probe as a linear layer: coefficients (n_outputs, hidden_size), intercepts (n_outputs,).

    Classes without a row get coefficients of zero and an intercept below the others'; a label that is the
    same in all rows gets its smoothed log-odds.
    """
    of_rows = weights if weights.ndim == 1 else weights.mean(axis=1)
    norm = float(np.average(np.linalg.norm(embeddings, axis=1), weights=of_rows))
    if are_numbers(targets):
        ridge = Ridge(alpha=float(of_rows.sum()) / _ROWS_OF_NUMBERS)
        _fit_unseen(ridge, embeddings / norm, targets, of_rows)
        return np.atleast_2d(ridge.coef_) / norm, np.atleast_1d(ridge.intercept_)
    strength = _inverse_penalty(targets, weights, n_outputs)
    if targets.ndim == 2:
        coefficients = np.zeros((n_outputs, embeddings.shape[1]))
        intercepts = _constant(targets, weights, n_outputs)
        for label in np.flatnonzero(targets.min(axis=0) < targets.max(axis=0)):
            probe = _logistic_regression(embeddings / norm, targets[:, label], weights[:, label], strength)
            coefficients[label], intercepts[label] = probe.coef_[0] / norm, probe.intercept_[0]
        return coefficients, intercepts
    probe = _logistic_regression(embeddings / norm, targets, weights, strength)
    found, offsets = probe.coef_ / norm, probe.intercept_
    if len(probe.classes_) == 2:  # one row of log-odds → two of logits
        found, offsets = np.concatenate([-found, found]) / 2, np.concatenate([-offsets, offsets]) / 2
    coefficients = np.zeros((n_outputs, embeddings.shape[1]))
    intercepts = np.full(n_outputs, offsets.min() - 1.0)
    coefficients[probe.classes_], intercepts[probe.classes_] = found, offsets
    return coefficients, intercepts


def _inverse_penalty(targets: np.ndarray, weights: np.ndarray, n_outputs: int) -> float:
    """C for embeddings of mean norm one: 30 divided by the rows per class, or by the ones per label."""
    counted = weights * targets if targets.ndim == 2 else weights
    # class_weight may have taken all weight from the ones.
    return _ROWS_PER_CLASS * n_outputs / float(counted.sum() or weights.sum())


def _logistic_regression(
    X: np.ndarray, y: np.ndarray, weights: np.ndarray, strength: float
) -> LogisticRegression:
    with holding_warning_filters(), warnings.catch_warnings():
        # A probe that has not converged is still a start: training continues from it. And a warning about
        # many classes for few texts was given, if at all, when y was checked.
        warnings.simplefilter("ignore", UserWarning)
        return _fit_unseen(LogisticRegression(C=strength, max_iter=200), X, y, weights)


def _fit_unseen(probe: Any, X: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Any:
    """Fit, bypassing what may be wrapped around the method.

    mlflow's autologging would mistake the probe for one of the user's models, and log and store it.
    """
    return inspect.unwrap(type(probe).fit)(probe, X, y, sample_weight=weights)


def _constant(targets: np.ndarray, weights: np.ndarray, n_outputs: int) -> np.ndarray:
    """Logits of the class frequencies, or of each label's (smoothed); for numbers, means; (n_outputs,)."""
    if are_numbers(targets):
        return np.average(targets, axis=0, weights=weights)
    if targets.ndim == 2:
        ones = (weights * targets).sum(axis=0)
        return np.log((ones + 1) / (weights.sum(axis=0) - ones + 1))
    return np.log(np.bincount(targets, weights=weights, minlength=n_outputs))  # some may be log 0


def _log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Log-probability of each target, or minus squared error; (n_samples,) or (n_samples, n_outputs)."""
    if are_numbers(targets):
        return -((logits - targets) ** 2)
    if targets.ndim == 2:
        return log_probabilities(np.where(targets == 1, logits, -logits), "multilabel-indicator")
    return log_probabilities(logits, "multiclass")[np.arange(len(targets)), targets]
