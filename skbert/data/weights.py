"""The weights of texts and of classes.

Weights of texts multiply their losses. Weights of classes adjust the logits from which the loss is computed
(`outputs.make_loss`): loss weights lose their effect on a network that fits its training texts (Byrd and
Lipton, 2019, arXiv:1812.03372).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import compute_class_weight
from sklearn.utils.validation import _check_sample_weight

from skbert.data.label_codes import codes_in, listed
from skbert.data.labels import Labels, check_something_to_learn
from skbert.data.targets import as_input_error
from skbert.exceptions import InputError, shown

_NEXT_TO_NOTHING = 1e-9  # of the heaviest class


def check_weights(
    labels: Labels, sample_weight: Any, class_weight: Any, min_classes: int = 2, *, goes_on: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Weight of every text, and of every class.

    Parameters
    ----------
    labels : Labels
    sample_weight : array-like of shape (n_samples,) or None
    class_weight : dict, "balanced" or None
        For an indicator matrix: the weight of a label where it is 1, by column; "balanced" is the ratio of
        its zeros to its ones, and 1 if it has only zeros or only ones.
    min_classes : int, default=2
        Classes that must keep a weight above zero.
    goes_on : bool, default=False
        Whether a fitted model continues training: a class of weight zero then only loses its texts.

    Returns
    -------
    of_rows : ndarray of shape (n_samples,) or (n_samples, n_labels), float64
        Sample weights; zero where the class has weight zero.
    of_classes : ndarray of shape (n_classes,) or (n_labels,), float64
        All above zero.
    """
    weights = check_text_weights(len(labels.codes), sample_weight)
    if labels.codes.ndim == 2:
        if min_classes > 1 and (weights == 0).any():
            check_something_to_learn(labels.codes[weights > 0], labels.classes)
        of_classes = _label_weights(labels, weights, class_weight)
        of_rows = weights[:, None] * np.where(labels.codes == 1, of_classes > 0, True)
        least = 1.0  # of a label whose ones have weight zero: they have no rows left to weight
    else:
        of_classes = _weight_of_classes(labels, weights, class_weight)
        of_rows = weights * (of_classes > 0)[labels.codes]
        kept = np.unique(labels.codes[of_rows > 0])
        if len(kept) < min_classes:
            if min_classes == 1:
                raise InputError(
                    "With sample_weight and class_weight, no text has a weight above zero. Leave this call "
                    "out."
                )
            raise InputError(
                "The number of classes has to be greater than one; with sample_weight and class_weight, only "
                f"{listed(labels.classes[kept])} have rows with a weight above zero. Give at least two "
                "classes such a weight."
            )
        # As of a class that next to no text has: this sets its starting bias, in a new head only.
        least = of_classes[of_classes > 0].mean() if goes_on else _NEXT_TO_NOTHING * of_classes.max()
    of_classes = np.where(of_classes > 0, of_classes, least)
    _check_total(of_rows.sum())
    _check_total(combine(of_rows, of_classes, labels.codes).sum())
    return of_rows, of_classes


def check_text_weights(n_texts: int, sample_weight: Any) -> np.ndarray:
    """Weight of every text, (n_samples,) float64."""
    with as_input_error():
        _check_each(n_texts, sample_weight)
        weights = _check_sample_weight(
            sample_weight, np.empty((n_texts, 1)), dtype=np.float64, ensure_non_negative=True
        )
    _check_total(weights.sum())
    return weights


def _check_total(total: float) -> None:
    if not np.finfo(np.float32).tiny < total < np.finfo(np.float32).max:
        raise InputError(
            f"The weights add up to {total:g}, which is too large or too small to compute with. Scale them "
            "so that their mean is near one."
        )


def _check_each(n_texts: int, sample_weight: Any) -> None:
    """Refuse what scikit-learn refuses, too, but name the row; and masks, which scikit-learn ignores."""
    if isinstance(sample_weight, str):
        raise InputError(
            f"sample_weight={sample_weight!r}. Expected one weight per text; to weight classes, set the "
            "parameter class_weight."
        )
    if isinstance(sample_weight, tuple) and len(sample_weight) == 2 != n_texts:
        raise InputError(
            "sample_weight is a tuple of 2. Expected one weight per text; texts to validate on are passed as "
            "X_val= and y_val=."
        )
    weights = np.asarray(sample_weight)
    if weights.ndim == 1 and len(weights) != n_texts:
        found = f"sample_weight has {len(weights)} weights for {n_texts} texts"
        raise InputError(f"{found}. Expected one weight per text.")
    if weights.ndim == 1 and weights.dtype.kind in "OU":
        try:
            weights = weights.astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            for row, weight in enumerate(weights.tolist()):
                _number(weight, f"sample_weight is {weight!r} at row {row}")
    if weights.dtype.kind in "mM":
        raise InputError(
            f"sample_weight holds times ({weights.dtype}). Expected finite weights of zero or more."
        )
    if weights.ndim != 1 or weights.dtype.kind not in "biuf" or len(weights) == 0:
        return  # scikit-learn says what is wrong with it, or converts it
    masked = np.zeros(len(weights), dtype=bool)
    if isinstance(sample_weight, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(sample_weight)
    bad = np.flatnonzero(masked | ~np.isfinite(weights) | (weights < 0))
    if len(bad):
        found = "masked" if masked[bad[0]] else f"{weights[bad[0]]:g}"
        raise InputError(
            f"sample_weight is {found} at row {bad[0]}. Expected finite weights of zero or more."
        )
    if not weights.any():
        raise InputError("All sample weights are zero. Give at least one text a weight above zero.")


def _number(weight: Any, found: str) -> float:
    try:
        return float(weight)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{found}. Expected finite weights of zero or more.") from error


def combine(of_rows: np.ndarray, of_classes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Weights of texts times those of their classes; for an indicator matrix, where a label is 1.

    Numbers have no classes: their weights are returned unchanged, for each of a text's numbers.
    """
    return of_rows * (of_classes[codes] if codes.ndim == 1 else np.where(codes == 1, of_classes, 1.0))


def _weight_of_classes(labels: Labels, weights: np.ndarray, class_weight: Any) -> np.ndarray:
    """Weight of each class, (n_classes,)."""
    per_class = np.ones(len(labels.classes))
    if class_weight is None:
        return per_class
    if isinstance(class_weight, dict):
        return _checked_class_weights(_weights_of_names(class_weight, labels), labels)
    rows = np.flatnonzero(weights)  # a class whose rows all have weight zero has no frequency
    present = np.unique(labels.codes[rows])
    with as_input_error():
        per_class[present] = compute_class_weight(
            class_weight,
            classes=labels.classes[present],
            y=labels.classes[labels.codes[rows]],
            sample_weight=weights[rows],
        )
    return _checked_class_weights(per_class, labels)


def _weights_of_names(class_weight: dict[Any, float], labels: Labels) -> np.ndarray:
    """Weights from a dict, 1 for classes that it does not name.

    scikit-learn looks for the number 1 if a class is "1", and finds no dates. As in scikit-learn, names that
    match no class are refused if there are classes that are not named.
    """
    per_class, unknown = np.ones(len(labels.classes)), []
    places = {label: code for code, label in enumerate(labels.classes.tolist())}
    for name, weight in class_weight.items():
        code = _code_of_time(name, labels.classes) if labels.classes.dtype.kind in "mM" else places.get(name)
        if code is None:
            unknown.append(name)
            continue
        per_class[code] = _number(weight, f"class_weight gives {weight!r} to {name!r}")
    if unknown and len(class_weight) - len(unknown) < len(per_class):
        raise InputError(
            f"class_weight names {shown(unknown, 5)}, but the classes in y are "
            f"{shown(listed(labels.classes))}. Name them as they are in y, with their type."
        )
    return per_class


def _code_of_time(name: Any, classes: np.ndarray) -> int | None:
    """Place of a class that is a date, in any of the forms that numpy reads; None if there is none."""
    try:
        code = int(codes_in(np.array([name], dtype=f"{classes.dtype.kind}8[us]"), classes)[0])
    except (TypeError, ValueError):  # it is not a date
        return None
    return None if code < 0 else code


def _label_weights(labels: Labels, weights: np.ndarray, class_weight: Any) -> np.ndarray:
    """Weight of each label where it is 1, (n_labels,)."""
    ones = np.ones(len(labels.classes))
    if class_weight == "balanced":
        positive, negative = weights @ labels.codes, weights @ (1 - labels.codes)
        both = (positive > 0) & (negative > 0)  # a label that is the same for all texts has no ratio
        ones[both] = negative[both] / positive[both]
    elif class_weight is not None:
        unknown = set(class_weight) - set(labels.classes.tolist())
        if unknown:
            raise InputError(
                f"class_weight names {shown(sorted(unknown, key=str), 5)}, but the labels are "
                f"{shown(labels.classes.tolist())}. Use these names: the names of the columns of y if "
                "it is a DataFrame, otherwise their numbers."
            )
        given = {label: class_weight.get(label, 1.0) for label in labels.classes.tolist()}
        ones = np.array([_number(w, f"class_weight gives {w!r} to {label!r}") for label, w in given.items()])
    return _checked_class_weights(ones, labels)


def _checked_class_weights(per_class: np.ndarray, labels: Labels) -> np.ndarray:
    bad = np.flatnonzero(~(np.isfinite(per_class) & (per_class >= 0)))
    if len(bad):
        raise InputError(
            f"class_weight gives {per_class[bad[0]]:g} to {listed(labels.classes)[bad[0]]!r}. Expected "
            "finite weights of zero or more."
        )
    return per_class
