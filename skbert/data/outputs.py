"""From a model's outputs to the loss that is minimised, and to what users see.

Each type of target is one branch in these small functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, get_args

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax

from skbert.data.labels import LabelsType
from skbert.data.numbers import NumbersType
from skbert.exceptions import NonFiniteOutputError
from skbert.process.float_errors import ignoring_float_errors

if TYPE_CHECKING:
    import torch

    LossFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

TargetType = LabelsType | NumbersType


def make_loss(
    target_type: TargetType, label_smoothing: float, class_weights: np.ndarray | None = None
) -> LossFunction:
    """Mean weighted loss of one batch; the weights have a mean of one over the data set.

    With class weights, the logarithms of the weights are first subtracted from the logits: logit adjustment.
    The logits then become those for texts in which classes are as frequent as the weights make them, which is
    where a weighted loss has its minimum (Menon et al., 2021, arXiv:2007.07314).

    Parameters
    ----------
    target_type : str
        Decides on softmax cross-entropy over the classes, binary cross-entropy of each label, or the squared
        error of numbers.
    label_smoothing : float
        Probability mass that targets spread over all classes (Szegedy et al., 2016, arXiv:1512.00567).
    class_weights : ndarray of shape (n_classes,) or (n_labels,), default=None

    Returns
    -------
    callable
        (logits (n, k), targets, weights) → loss, a scalar tensor. Targets and weights have the shape (n,), or
        (n, k) for an indicator matrix; for numbers, (n, k) and (n, 1).
    """
    import torch
    import torch.nn.functional as F

    weighs = class_weights is not None and bool((class_weights != 1.0).any())

    @cache
    def shift(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.log(class_weights)).to(device, dtype)  # type: ignore[arg-type]  # it weighs

    def adjusted(logits: torch.Tensor) -> torch.Tensor:
        return logits - shift(logits.device, logits.dtype) if weighs else logits

    def classes(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(adjusted(logits), targets, reduction="none", label_smoothing=label_smoothing)
        return (losses * weights).mean()

    def indicator(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        smooth = targets.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(adjusted(logits), smooth, reduction="none")
        return (losses * weights).mean()

    def numbers(outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return ((outputs - targets.to(outputs.dtype)) ** 2 * weights).mean()

    if target_type in get_args(NumbersType):
        return numbers
    return indicator if target_type == "multilabel-indicator" else classes


@ignoring_float_errors
def in_units(
    outputs: np.ndarray, means: np.ndarray, scales: np.ndarray, target_type: TargetType
) -> np.ndarray:
    """Numbers in the units of y, from standardized ones (n, k): (n,) or (n, k), float64.

    Raises
    ------
    NonFiniteOutputError
        If one is too large for float64, or the mean or the scale is not finite.
    """
    numbers = outputs * scales + means
    if not np.isfinite(numbers).all():
        raise NonFiniteOutputError(
            f"A predicted number is not finite in the units of y: their mean is {means.tolist()}, their "
            f"scale {scales.tolist()}. Fit the model again, with y in a unit that makes its numbers smaller."
        )
    return numbers[:, 0] if target_type == "continuous" else numbers


@ignoring_float_errors
def probabilities(logits: np.ndarray, target_type: TargetType) -> np.ndarray:
    """Softmax over the classes, rows sum to one; or the sigmoid of each label. In the dtype of `logits`."""
    return expit(logits) if target_type == "multilabel-indicator" else softmax(logits, axis=1)


@ignoring_float_errors
def log_probabilities(logits: np.ndarray, target_type: TargetType) -> np.ndarray:
    """Logarithm of `probabilities`, exact where a probability underflows to zero."""
    return log_expit(logits) if target_type == "multilabel-indicator" else log_softmax(logits, axis=1)


def decision_values(logits: np.ndarray, target_type: TargetType) -> np.ndarray:
    """Scores as scikit-learn shapes them: (n,) log-odds of the second class if binary, else the logits."""
    return logits[:, 1] - logits[:, 0] if target_type == "binary" else logits


def decode(values: np.ndarray, classes: np.ndarray, target_type: TargetType) -> np.ndarray:
    """Labels from probabilities: the most likely class, or 1 for each label more likely than not."""
    if target_type == "multilabel-indicator":
        return (values > 0.5).astype(np.int64)
    return classes[values.argmax(axis=1)]
