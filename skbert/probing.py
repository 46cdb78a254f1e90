"""A head that starts from what the frozen encoder already knows.

Linear probing, then fine-tuning (Kumar et al., 2022, arXiv:2202.10054): a randomly started head first has to
learn every class from noise, and while it does, its noise moves the encoder. With many classes and few
rows, a fine-tuned model would end far below logistic regression on the frozen embedding.

1. The frozen encoder embeds the training texts (without dropout), or 20,000 of them.
2. `generalizes` asks whether scikit-learn's LogisticRegression on a part of them predicts the rest better
   than the class frequencies do. Where it does not (are two sentences paraphrases? one embedding of the
   pair does not know), its large weights would fit noise, and a small random head is the better start.
3. `start_head` fits it on all of them, and its coefficients become the head's weights.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from skbert.model import SequenceClassifier

_MAX_ROWS = 20_000  # more texts make the start no better, only dearer
_MAX_ROWS_TO_ASK = 2_000
_C = 10.0  # inverse strength of the probe's L2 penalty, for embeddings of a mean norm of one


def choose_rows(n_texts: int, generator: np.random.Generator) -> np.ndarray:
    """Rows that the probe sees: all, or a random `_MAX_ROWS` of them, in their order."""
    if n_texts <= _MAX_ROWS:
        return np.arange(n_texts)
    return np.sort(generator.choice(n_texts, _MAX_ROWS, replace=False))


def generalizes(
    embeddings: np.ndarray, codes: np.ndarray, weights: np.ndarray, generator: np.random.Generator
) -> bool:
    """Whether a probe on two thirds of the rows predicts the others better than class frequencies do.

    Compared by log loss, on rows of classes that both parts have. With too few rows to tell, the answer is
    yes.

    Parameters
    ----------
    embeddings : ndarray of shape (n_samples, hidden_size)
    codes, weights : ndarray of shape (n_samples,)
    generator : numpy.random.Generator
        Draws the parts.

    Returns
    -------
    bool
    """
    order = generator.permutation(len(codes))[:_MAX_ROWS_TO_ASK]
    fit, held = order[len(order) // 3 :], order[: len(order) // 3]
    held = held[np.isin(codes[held], codes[fit])]
    if len(held) == 0 or len(np.unique(codes[fit])) < 2:
        return True
    probe, norm = _fit_probe(embeddings[fit], codes[fit], weights[fit])
    columns = np.searchsorted(probe.classes_, codes[held])
    likelihood = probe.predict_log_proba(embeddings[held] / norm)[np.arange(len(held)), columns]
    counts = np.bincount(np.searchsorted(probe.classes_, codes[fit]), weights=weights[fit])
    frequency = np.log(counts / counts.sum())[columns]
    return bool(np.average(likelihood - frequency, weights=weights[held]) > 0)


def start_head(
    model: SequenceClassifier, embeddings: np.ndarray, codes: np.ndarray, weights: np.ndarray
) -> None:
    """Set the head's weights to those of a logistic regression on `embeddings`.

    Parameters
    ----------
    model : SequenceClassifier
    embeddings : ndarray of shape (n_samples, hidden_size)
        Pooled vectors of the frozen encoder.
    codes : ndarray of shape (n_samples,)
        Class codes; classes without a row get weights of zero and a bias below the others'.
    weights : ndarray of shape (n_samples,)
    """
    if len(np.unique(codes)) < 2:  # weights of zero left one class: there is nothing to separate
        return
    probe, norm = _fit_probe(embeddings, codes, weights)
    coefficients, intercepts = probe.coef_, probe.intercept_
    if len(probe.classes_) == 2:  # one row of log-odds → two of logits
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(float(intercepts.min()) - 1.0)
        rows = torch.from_numpy(probe.classes_)
        model.head.weight[rows] = torch.from_numpy(coefficients / norm).to(model.head.weight.dtype)
        model.head.bias[rows] = torch.from_numpy(intercepts).to(model.head.bias.dtype)


def _fit_probe(
    embeddings: np.ndarray, codes: np.ndarray, weights: np.ndarray
) -> tuple[LogisticRegression, float]:
    """The probe, and the mean norm that embeddings are divided by before it sees them."""
    norm = float(np.average(np.linalg.norm(embeddings, axis=1), weights=weights))
    probe = LogisticRegression(C=_C, max_iter=200)
    with warnings.catch_warnings():
        # A start that has not converged is still a start: training goes on from it. And whether there are
        # many classes for so few texts was said, if at all, when y was checked.
        warnings.simplefilter("ignore", UserWarning)
        probe.fit(embeddings / norm, codes, sample_weight=weights)
    return probe, norm
