"""Labels compared with classes, as what they are: 1 is not "1", and a day is no number."""

from __future__ import annotations

from typing import Any

import numpy as np


def codes_in(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Places of labels among the classes; -1 for a label that is not one of them.

    They are compared as Python values, which are equal only if they really are. numpy would first convert
    both to one dtype: 1 and "1" to str, in which 10 sorts before 2; int64 and uint64 to float, which merges
    different values; days to nanoseconds, which overflow.

    Parameters
    ----------
    values : ndarray of shape (n_samples,)
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    ndarray of shape (n_samples,), int64
    """
    found, inverse = np.unique(values, return_inverse=True)
    there, kept, kinds = found, np.ones(len(found), dtype=bool), {found.dtype.kind, classes.dtype.kind}
    if kinds & {"m", "M"}:
        if len(kinds) == 2:  # Python's value of nanoseconds is an int
            return np.full(len(values), -1)
        there = found.astype(classes.dtype)
        kept = there.astype(found.dtype) == found
    places = {label: code for code, label in enumerate(classes.tolist())}
    codes = np.array([places.get(label, -1) for label in there.tolist()], dtype=np.int64)
    return np.where(kept, codes, -1)[inverse]


def kind_of(labels: np.ndarray) -> str:
    """What labels can be compared with: str, numbers, points in time, or durations."""
    if isinstance(labels[0], str):
        return "str"
    return labels.dtype.kind if labels.dtype.kind in "mM" else "number"


def remedy_for(labels: np.ndarray, classes: np.ndarray) -> str | None:
    """The conversion that would make classes of labels of another kind, if there is one."""
    as_str, known = {*map(str, labels.tolist())}, {*map(str, classes.tolist())}
    # To numpy, every str but the empty one is True as a bool.
    if kind_of(labels) == kind_of(classes) or not as_str <= known or classes.dtype == bool:
        return None
    return f"Pass np.asarray(y).astype({'str' if kind_of(classes) == 'str' else classes.dtype.name!r})."


def listed(labels: np.ndarray) -> list[Any]:
    """Labels as Python values, for a message; times as str, since Python's value of nanoseconds is an int."""
    return [*map(str, labels)] if labels.dtype.kind in "mM" else labels.tolist()
