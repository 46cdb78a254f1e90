"""A head that starts from what the frozen encoder already knows.

Linear probing, then fine-tuning (Kumar et al., 2022, arXiv:2202.10054): a randomly started head first has to
learn every class from noise, and while it does, its noise moves the encoder. With many classes and few
rows, a fine-tuned model would end far below logistic regression on the frozen embedding.

1. The frozen encoder embeds the training texts (without dropout), or 20,000 of them.
2. scikit-learn's LogisticRegression separates them.
3. Its coefficients become the head's weights.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from skbert.model import SequenceClassifier

_MAX_ROWS = 20_000  # more texts make the start no better, only dearer
_C = 10.0  # inverse strength of the probe's L2 penalty, for embeddings of a mean norm of one


def choose_rows(n_texts: int, generator: np.random.Generator) -> np.ndarray:
    """Rows that the probe sees: all, or a random `_MAX_ROWS` of them, in their order."""
    if n_texts <= _MAX_ROWS:
        return np.arange(n_texts)
    return np.sort(generator.choice(n_texts, _MAX_ROWS, replace=False))


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
        Class codes; classes without a row keep weights of zero and a bias below the others'.
    weights : ndarray of shape (n_samples,)
    """
    if len(np.unique(codes)) < 2:  # weights of zero left one class: there is nothing to separate
        return
    norm = float(np.average(np.linalg.norm(embeddings, axis=1), weights=weights))
    probe = LogisticRegression(C=_C, max_iter=200)
    with warnings.catch_warnings():
        # A start that has not converged is still a start: training goes on from it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(embeddings / norm, codes, sample_weight=weights)
    coefficients, intercepts = probe.coef_, probe.intercept_
    if len(probe.classes_) == 2:  # one row of log-odds → two of logits
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(float(intercepts.min()))
        rows = torch.from_numpy(probe.classes_)
        model.head.weight[rows] = torch.from_numpy(coefficients / norm).to(model.head.weight.dtype)
        model.head.bias[rows] = torch.from_numpy(intercepts).to(model.head.bias.dtype)
