"""Did the fit learn anything? Some models collapse to predicting one class for every text.

1. `constant_loss` is the training loss of the best prediction that ignores the texts: the class
   frequencies, or the mean.
2. Only a fit whose loss ends near it is suspected. Its model then predicts some of the training texts,
   an equal number per class, a few first: most models tell these apart, and the others need not be run.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr

from skbert.data.numbers import Numbers, are_numbers
from skbert.data.outputs import decode, probabilities
from skbert.exceptions import CollapseWarning, warn
from skbert.inference import release, run_model
from skbert.network.memory_errors import is_out_of_memory
from skbert.process.float_errors import ignoring_float_errors

if TYPE_CHECKING:
    from skbert.data.fit_data import Target, TrainingData
    from skbert.data.labels import Labels
    from skbert.network.model import SequenceClassifier
    from skbert.runtime import Runtime

_SUSPICIOUS = 0.9  # of the constant prediction's loss
_FEW, _MAX_TEXTS = 16, 64
_BELOW = 0.97  # of the constant prediction's loss: less comes from telling texts apart, not from chance
_DIVERGED = 2.0  # times the constant prediction's loss: no model that has learned something does worse
_SAME = 0.01  # standard deviations of y: predictions this close count as the same


def warn_of_collapse(
    model: SequenceClassifier,
    loss: float,
    data: TrainingData,
    target: Target,
    label_smoothing: float,
    runtime: Runtime,
) -> None:
    """Warn if the fitted model predicts the same for training texts whose targets differ.

    Parameters
    ----------
    model : SequenceClassifier
    loss : float
        Mean training loss of the epoch whose weights the model has.
    data : TrainingData
    target : Target
    label_smoothing : float
    runtime : Runtime
    """
    constant = constant_loss(data.targets, data.weights, target.n_outputs, label_smoothing)
    if loss < _SUSPICIOUS * constant:
        return
    owners = data.encodings.owners
    n_texts = int(owners[-1]) + 1
    order = np.arange(len(data))
    if len(data) > n_texts:  # the first windows of a class may all be of one text
        order = np.random.default_rng(0).permutation(order)
    rows = order[texts_of_all_classes(data.targets[order], _MAX_TEXTS)]
    if not _differ(data.targets[rows]):
        return

    def predict(some: np.ndarray) -> np.ndarray:
        outputs = run_model(model, data.encodings.take(some), runtime)
        return outputs if isinstance(target, Numbers) else _labels(outputs, target)

    differ = partial(_differ, tolerance=_SAME if isinstance(target, Numbers) else None)
    try:
        predicted = predict(rows[:_FEW])
        if (not differ(predicted) or isinstance(target, Numbers)) and len(rows) > _FEW:
            predicted = np.concatenate([predicted, predict(rows[_FEW:])])
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return  # the trained model is worth more than this check
        raise
    finally:
        release(model)
    if not differ(predicted):
        same, known = _described(predicted[0], target)
        n_checked = len(np.unique(owners[rows]))
        which = "" if n_checked == n_texts else f" that were checked (of {n_texts})"
        warn(
            f"The model predicts {same} for all {n_checked} training texts{which}; its training loss is "
            f"{loss:.3f}, while {known} {constant:.3f}. {_verdict(loss, constant, data, target)}.",
            CollapseWarning,
        )
    elif isinstance(target, Numbers) and len(predicted) == len(rows):
        squared = float(((predicted - data.targets[rows]) ** 2).mean())
        if squared > _DIVERGED * constant > 0:
            warn(
                f"The model's squared error on {len(rows)} of its training texts is {squared / constant:.3g} "
                "times the variance of y: it predicts them worse than their mean does. Lower learning_rate."
            )


def _labels(logits: np.ndarray, labels: Labels) -> np.ndarray:
    return decode(probabilities(logits, labels.target_type), labels.classes, labels.target_type)


def _verdict(loss: float, constant: float, data: TrainingData, target: Target) -> str:
    """What the loss says about such a model, compared with the constant prediction's; and what to do."""
    unsure = np.log(2 if data.targets.ndim == 2 else target.n_outputs)  # with equal probabilities
    if loss > _DIVERGED * max(constant, 0.0 if isinstance(target, Numbers) else unsure):
        return "The fit has diverged: lower learning_rate"
    if loss < _BELOW * constant:
        verdict = "It has begun to tell texts apart, but not enough to change a prediction: try more epochs"
    else:
        verdict = "It has learned nothing yet: try more epochs or another learning_rate"
    return f"{verdict}{_or_weights(data, target)}"


def _described(predicted: np.ndarray, target: Target) -> tuple[str, str]:
    """Words for what is predicted for all texts, and for the constant prediction."""
    if isinstance(target, Numbers):
        numbers = predicted * target.scales + target.means
        return f"about {', '.join(f'{number:.3g}' for number in numbers)}", "the mean alone gives"
    return repr(np.asarray(predicted).tolist()), "class frequencies alone give"


def _or_weights(data: TrainingData, target: Target) -> str:
    """What else may help, where some classes are more frequent than others."""
    if (data.class_weights != 1.0).any() or are_numbers(data.targets):
        return ""
    weights = data.weights.sum(axis=0)
    if data.targets.ndim == 1:
        weights = np.bincount(data.targets, weights=data.weights, minlength=target.n_outputs)
        uneven = weights.max() > 1.5 * weights.min()
    else:
        ones = (data.weights * data.targets).sum(axis=0)
        uneven = bool((3 * ones < weights).any())
    return ", or class_weight='balanced'" if uneven else ""


def texts_of_all_classes(targets: np.ndarray, n_texts: int) -> np.ndarray:
    """Rows of at most `n_texts` texts: one of each class, or set of labels, then a second one of each, ...

    For numbers: from the lowest to the highest, at equal distances in their order.

    Parameters
    ----------
    targets : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    n_texts : int
    """
    if are_numbers(targets):
        chosen = np.linspace(0, len(targets) - 1, min(n_texts, len(targets)), dtype=int)
        return np.argsort(targets[:, 0], kind="stable")[np.random.default_rng(0).permutation(chosen)]
    codes = np.unique(targets, axis=0, return_inverse=True)[1].reshape(-1)
    by_class = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)  # of each in its class
    return by_class[np.argsort(rank, kind="stable")][:n_texts]


@ignoring_float_errors
def constant_loss(targets: np.ndarray, weights: np.ndarray, n_outputs: int, label_smoothing: float) -> float:
    """Mean weighted cross-entropy of the class frequencies, or of each label's, smoothed as the targets are.

    For numbers: their variance.

    Parameters
    ----------
    targets, weights : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    n_outputs : int
    label_smoothing : float
    """
    if are_numbers(targets):
        means = np.average(targets, axis=0, weights=weights[:, 0])
        return float(np.average((targets - means) ** 2, axis=0, weights=weights[:, 0]).mean())
    if targets.ndim == 2:
        of_labels = weights.sum(axis=0)
        counted = of_labels > 0
        ones = (weights * targets).sum(axis=0)[counted] / of_labels[counted]
        p = ones * (1 - label_smoothing) + label_smoothing / 2
        return float(np.average(entr(p) + entr(1 - p), weights=of_labels[counted]))
    frequencies = np.bincount(targets, weights=weights, minlength=n_outputs) / weights.sum()
    smooth = frequencies * (1 - label_smoothing) + label_smoothing / n_outputs
    return float(entr(smooth).sum())


def _differ(rows: np.ndarray, tolerance: float | None = None) -> bool:
    if tolerance is not None:
        return bool((np.ptp(rows, axis=0) > tolerance).any())
    return bool((rows != rows[0]).any())
