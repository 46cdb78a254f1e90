"""Texts to validate on that the caller brings, and what is known of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from skbert.data.fit_data import Target
from skbert.data.inputs import Texts, check_texts
from skbert.exceptions import InputError


def check_held_out(X: Any, y: Any, texts: Texts, target: Target) -> tuple[Texts, np.ndarray] | None:
    """Texts and targets to validate on, if there are any: of the same form as those to train on."""
    if X is None and y is None:
        return None
    if X is None:
        raise InputError("y_val was given without X_val. Pass the validation texts as X_val.")
    held_out = check_texts(X, "X_val")
    if held_out.n_columns != texts.n_columns:
        raise InputError(
            f"X_val has {held_out.n_columns} columns, but X has {texts.n_columns}. Pass both as single "
            "texts, or both as pairs."
        )
    if y is None:
        raise InputError(
            "X_val was given without y_val. Pass the labels, or numbers, of the validation texts as y_val."
        )
    return held_out, target.of_held_out(y, len(held_out))
