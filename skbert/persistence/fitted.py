"""The fitted attributes that predictions read: whether those of a file are present and valid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from skbert.data.encoding import LongText
from skbert.data.labels import LabelsType
from skbert.exceptions import PersistenceError
from skbert.parameters import MIN_LENGTH

# Attributes that no copy in another process has: the optimizer's state, and the fit that callbacks watch now.
OF_THIS_PROCESS = ("_moments", "_callback_fit_ctx", "_skl_callbacks_to_teardown")


def n_outputs_of(attributes: Mapping[str, Any]) -> int:
    """How many logits, or numbers, the head of a fitted estimator must give."""
    return len(attributes["classes_"] if "classes_" in attributes else attributes["target_mean_"])


def check_attributes(attributes: Mapping[str, Any], *, numbers: bool) -> None:
    """Check what predictions read; all else may differ between versions.

    Parameters
    ----------
    attributes : mapping
    numbers : bool
        Whether they should be a regressor's.

    Raises
    ------
    PersistenceError, KeyError
    """
    sound = (
        (_are_of_numbers(attributes) if numbers else _are_of_labels(attributes))
        and attributes["long_text_"] in get_args(LongText)
        and attributes["n_features_in_"] in (1, 2)
        and type(attributes["n_features_in_"]) is int
        and type(attributes["max_length_"]) is int
        and attributes["max_length_"] >= MIN_LENGTH
    )
    if not sound:
        raise PersistenceError("its fitted attributes are not those of a fit.")


def _are_of_labels(attributes: Mapping[str, Any]) -> bool:
    classes = attributes["classes_"]
    is_column = isinstance(classes, np.ndarray) and classes.ndim == 1 and len(classes) > 0
    return is_column and attributes["target_type_"] in get_args(LabelsType)


def _are_of_numbers(attributes: Mapping[str, Any]) -> bool:
    mean, scale, kind = (attributes[f"target_{name}_"] for name in ("mean", "scale", "type"))
    for column in (mean, scale):
        if not (isinstance(column, np.ndarray) and column.dtype == np.float64 and column.ndim == 1):
            return False
        if not np.isfinite(column).all():
            return False
    if not len(mean) == len(scale) > 0 or not (scale > 0).all() or "classes_" in attributes:
        return False
    return kind == "continuous-multioutput" or (kind == "continuous" and len(mean) == 1)
