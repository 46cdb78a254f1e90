"""X and y that can be fitted, but are hardly meant: labels among the texts, texts among the labels."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from skbert.data.inputs import Texts
from skbert.data.labels import Labels
from skbert.data.numbers import Numbers
from skbert.exceptions import InputError, warn

_ENOUGH_TO_TELL = 4  # texts: with fewer, one side may equal the labels by chance
_MANY = 20  # labels: with fewer, texts that contradict each other are more likely
_NEARLY_ALL = 0.8  # of the texts have a label of their own
_SEPARATED = re.compile(r"\S[\s,;|/]+\S")  # words of a text, labels that are joined; not "card_lost"


def check_labels_of_texts(texts: Texts, labels: Labels, *, goes_on: bool) -> None:
    """Refuse pairs in which one side is the label: a table was passed instead of its text column.

    Warn if one side is the label under another name, if texts may be in y and their labels in X, or if y may
    hold the second texts of pairs. A model that goes on is given a part of what it learns: it may be of one
    class, and repeat it by chance.
    """
    if goes_on or len(texts) < _ENOUGH_TO_TELL:
        return
    if labels.codes.ndim == 2:
        if texts.second is not None:
            _warn_of_renamed(texts, labels.codes)
        return
    n_labels = len(np.unique(labels.codes))
    if texts.second is not None:
        y = labels.classes[labels.codes].tolist()
        _refuse_column(texts, lambda column: all(t == str(label) for t, label in zip(column, y, strict=True)))
        _warn_of_renamed(texts, labels.codes)
    elif n_labels > _MANY and n_labels > (n_different := len(set(texts.first))):
        warn(
            f"y has {n_labels} different labels, but X only {n_different} different texts, "
            f"such as {texts.first[0][:60]!r}. If these are the labels, and y the texts, pass "
            "fit(texts, labels)."
        )
    elif n_labels > _MANY and n_labels > _NEARLY_ALL * len(texts) and _are_several_words(labels):
        warn(
            f"y has {n_labels} different labels for {len(texts)} texts, such as {labels.classes[0][:60]!r}. "
            "If these are the second texts of pairs, pass fit(list(zip(first, second)), labels); if each "
            "holds several labels, split them and use scikit-learn's MultiLabelBinarizer."
        )


def check_numbers_of_texts(texts: Texts, numbers: Numbers, *, goes_on: bool) -> None:
    """The same for numbers: refuse pairs in which one side is the number, warn if it stands for it."""
    if goes_on or len(texts) < _ENOUGH_TO_TELL or texts.second is None:
        return
    y = numbers.given.reshape(len(texts), -1)
    if y.shape[1] == 1:
        _refuse_column(texts, lambda column: _as_numbers(column) == y[:, 0].tolist())
    _warn_of_renamed(texts, y)


def _are_several_words(labels: Labels) -> bool:
    found = [isinstance(label, str) and bool(_SEPARATED.search(label)) for label in labels.classes]
    return 2 * sum(found) > len(found)


def _as_numbers(column: list[str]) -> list[float]:
    try:
        return [float(text) for text in column]
    except ValueError:
        return []


def _refuse_column(texts: Texts, is_target: Callable[[list[str]], bool]) -> None:
    for number, column in enumerate(_columns(texts)):
        if is_target(column):
            raise InputError(
                f"Column {number} of X holds the labels in y, so there is nothing to learn. Two columns are "
                "read as pairs of texts: pass the text column alone, for example X['text']."
            )


def _warn_of_renamed(texts: Texts, y: np.ndarray) -> None:
    """Warn of a column with one text for each value, or row, of y, beside one whose texts differ."""
    for number, column in enumerate(columns := _columns(texts)):
        n = len(set(column))
        if not 1 < n <= len(y) // 2 or n >= len(set(columns[1 - number])):
            continue
        values = [value.tobytes() for value in y]
        if n == len(set(values)) == len(set(zip(column, values, strict=True))):
            warn(
                f"Column {number} of X gives the labels away: each of its {n} different texts, such as "
                f"{column[0][:60]!r}, has a label of its own. If it is the label under another name, pass "
                "the text column alone, for example X['text']."
            )


def _columns(texts: Texts) -> list[list[str]]:
    assert texts.second is not None
    return [texts.first, texts.second]
