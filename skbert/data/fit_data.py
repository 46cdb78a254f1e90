"""The checked inputs of a fit (`FitData`), and the encoded training set of its loop (`TrainingData`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skbert.data.containers import as_array, computed, rows_of, unmasked
from skbert.data.encoding import Encodings
from skbert.data.inputs import Texts, check_texts, factorize
from skbert.data.labels import Labels
from skbert.data.numbers import Numbers
from skbert.data.targets import first_missing
from skbert.exceptions import InputError

Target = Labels | Numbers  # what a fit learns


@dataclass(frozen=True, slots=True)
class FitData:
    """What a fit is given."""

    texts: Texts
    target: Target
    weights: np.ndarray  # (n_samples,) or (n_samples, n_labels); for numbers (n_samples, 1)
    class_weights: np.ndarray  # (n_outputs,), for numbers all 1
    held_out: tuple[Texts, np.ndarray] | None = None  # texts to validate on, and their targets
    groups: np.ndarray | None = None  # (n_samples,) int64: texts of one group are held out together


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the loop reads: tokens, targets and weights of every row, a text or a window of one."""

    encodings: Encodings
    # (n_rows,) int64: class codes; (n_rows, n_labels) int64: 0 and 1; (n_rows, n_outputs) float64: numbers
    targets: np.ndarray
    weights: np.ndarray  # of their shape, for numbers (n_rows, 1), float64; no row is all zero
    class_weights: np.ndarray  # (n_outputs,) float64, above zero; for the head's initialization and the loss
    held_out: Encodings | None = None  # of the texts to validate on
    groups: np.ndarray | None = None  # (n_rows,) int64

    def __len__(self) -> int:
        return len(self.encodings)

    @property
    def all_encodings(self) -> list[Encodings]:
        """All encodings that the model will be run over."""
        return [self.encodings] if self.held_out is None else [self.encodings, self.held_out]

    def reencoded(self, change: Callable[[Encodings], Encodings]) -> TrainingData:
        """The same texts, to train on and to validate on, with their encodings changed by a function."""
        encodings = change(self.encodings)
        held_out = None if self.held_out is None else change(self.held_out)
        return replace(self, encodings=encodings, held_out=held_out)


def check_held_out(X: Any, y: Any, texts: Texts, target: Target) -> tuple[Texts, np.ndarray] | None:
    """Check the texts and targets to validate on, if any: they must have the form of those to train on."""
    if X is None and y is None:
        return None
    if X is None:
        raise InputError("y_val was given without X_val. Pass the validation texts as X_val.")
    if y is None:
        raise InputError(
            "X_val was given without y_val. Pass the texts as X_val, and their labels, or numbers, as y_val."
        )
    held_out = check_texts(X, "X_val")
    if held_out.n_columns != texts.n_columns:
        raise InputError(
            f"X_val has {held_out.n_columns} columns, but X has {texts.n_columns}. Pass both as single "
            "texts, or both as pairs."
        )
    return held_out, target.of_held_out(y, len(held_out))


def check_groups(groups: Any, n_texts: int) -> np.ndarray | None:
    """Check the groups of the texts, if any, and number them: (n_samples,) int64."""
    if groups is None:
        return None
    groups = unmasked(computed(groups))
    if isinstance(groups, Sequence) and not isinstance(groups, str) and not hasattr(groups, "__array__"):
        groups = rows_of(groups)
    else:
        try:
            groups = as_array(groups.astype(object) if hasattr(groups, "iloc") else groups)
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"groups cannot be read ({error}). Pass a list with one str or int per text."
            ) from error
        if groups.ndim != 1:
            found = f"has the shape {groups.shape}" if groups.ndim else f"is {groups.item()!r:.60}"
            raise InputError(f"groups {found}. Expected a 1-D array-like with the group of each text.")
    try:  # a list may hold the elements of a tensor, or Arrow's, which are compared by what they hold
        values = [v.item() if hasattr(v, "item") else v.as_py() if hasattr(v, "as_py") else v for v in groups]
    except (RuntimeError, ValueError) as error:
        raise InputError(f"groups has several values in a cell ({error}). Pass one per text.") from error
    if len(values) != n_texts:
        raise InputError(f"groups has {len(values)} entries for {n_texts} texts. Expected one per text.")
    missing = first_missing(values)
    if missing is not None:
        raise InputError(
            f"groups has a missing value at row {missing}. Give each text a group, one of its own if it "
            "belongs with no other."
        )
    try:
        return factorize(values)[1]
    except TypeError as error:
        raise InputError(f"groups cannot be compared ({error}). Pass one str or int per text.") from error
