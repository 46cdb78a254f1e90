"""A head that starts from what the frozen encoder already knows.

Linear probing, then fine-tuning (Kumar et al., 2022, arXiv:2202.10054): a randomly started head first has to
learn every class from noise, and while it does, its noise moves the encoder. With many classes and few
rows, a fine-tuned model would end far below logistic regression on the frozen embedding.

1. The frozen encoder embeds the training texts (without dropout).
2. scikit-learn's LogisticRegression separates them.
3. Its coefficients become the head's weights.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from skbert.model import SequenceClassifier

_C = 10.0  # inverse strength of the probe's L2 penalty, for embeddings of a mean norm of one


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
    norm = float(np.linalg.norm(embeddings, axis=1).mean())
    probe = LogisticRegression(C=_C, max_iter=200)
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
