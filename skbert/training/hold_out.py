"""Texts held out of training for early stopping.

1. Rows are split: stratified by class; for an indicator matrix, or for numbers, at random.
2. Equal texts that end up on both sides are moved to one of them: a text that was trained on says nothing
   about others, and with oversampling the score would become 1.
3. If there are groups of texts, whole groups are held out instead, less the texts that others have, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from sklearn.model_selection import train_test_split

from skbert.data.numbers import are_numbers
from skbert.exceptions import InputError

_DRAWS = 32  # random choices of groups that are compared


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to train on and to validate on."""

    training: np.ndarray  # (n_training,) int64, ascending
    validation: np.ndarray  # (n_validation,) int64, ascending
    complete: bool  # the validation rows hold every class, or label
    unseen: bool = True  # no text, and no group but for texts that others have, too, is on both sides


def hold_out(
    targets: np.ndarray, texts: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None = None
) -> Split:
    """Split rows into training and validation.

    Where there are too few rows of some class to stratify, one row of each class stays in training and the
    validation rows are drawn from the others, without regard to classes.

    Parameters
    ----------
    targets : ndarray of shape (n_samples,) or (n_samples, n_labels)
        An indicator matrix is split at random, except that one text of each label stays in training if that
        leaves enough; numbers are split entirely at random.
    texts : ndarray of shape (n_samples,), int64
        Index of each row's text among the distinct ones.
    fraction : float
        Fraction of the rows for validation. Where texts repeat, or in groups, it may be fewer rows, or more.
    seed : int
    groups : ndarray of shape (n_samples,), int64, default=None
        Index of each row's group.
    """
    training, validation = _hold_out_rows(targets, fraction, seed)
    held = validation[:0]
    if groups is not None:
        held = _hold_out_groups(targets, texts, groups, fraction, seed)
    unseen = len(held) > 0 or groups is None
    if len(held) == 0:
        held = _hold_out_texts(targets, texts, training, validation, seed)
    if len(held) == 0:
        held, unseen = validation, False
    others = np.setdiff1d(np.arange(len(targets)), held)
    return Split(others, held, _n_classes(targets, held) == _n_classes(targets), unseen)


def _hold_out_texts(
    targets: np.ndarray, texts: np.ndarray, training: np.ndarray, validation: np.ndarray, seed: int
) -> np.ndarray:
    """Rows to validate on, with all rows of their texts; none if too few texts differ."""
    shared = np.intersect1d(texts[training], texts[validation])
    if len(shared) == 0:
        return validation
    held = _held_wholly(targets, texts, validation, shared, seed)
    return _without_last_ones(targets, texts, training, held)


def _hold_out_groups(
    targets: np.ndarray, texts: np.ndarray, groups: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """Rows of whole groups: of some random choices, the one nearest to the fraction of all and of each class.

    A text that another group has as well is left to training, and so is the last group with a class.
    """
    groups = np.unique(groups, return_inverse=True)[1]
    rows, sizes = np.arange(len(targets)), np.bincount(groups)
    of_groups = coo_array((np.ones(len(rows)), (groups, rows)), shape=(len(sizes), len(rows))).tocsr()
    counts = of_groups @ _membership(targets)  # (n_groups, n_classes)
    expected = np.r_[fraction * len(rows), fraction * counts.sum(axis=0)]

    def distance(held: np.ndarray) -> float:
        found = np.r_[sizes[held].sum(), counts[held].sum(axis=0)]
        of_rows, *of_classes = np.abs(found / expected - 1).clip(max=2).tolist()
        return of_rows + (sum(of_classes) / len(of_classes) if of_classes else 0.0)

    free = _not_needed(counts)
    rng = np.random.default_rng(seed)
    draws = [_some_groups(rng.permutation(free), sizes, fraction) for _ in range(_DRAWS if len(free) else 0)]
    for chosen in sorted(draws, key=distance):
        held = np.flatnonzero(np.isin(groups, chosen))
        held = _without_last_ones(targets, groups, rows, held)
        held = held[~np.isin(texts[held], texts[np.setdiff1d(rows, held)])]
        if len(held):
            return held
    return rows[:0]


def _not_needed(counts: csr_array) -> np.ndarray:
    """Groups that are not the only one with some class."""
    of_classes = counts.tocsc()
    n_groups = np.diff(of_classes.indptr)
    needed = of_classes.indices[np.repeat(n_groups == 1, n_groups)]
    return np.setdiff1d(np.arange(counts.shape[0]), needed)


def _membership(targets: np.ndarray) -> csr_array:
    """Which classes, or labels, each row has, (n_samples, n_classes), without those that no row has."""
    if are_numbers(targets):
        return csr_array((len(targets), 0))
    if targets.ndim == 2:
        return csr_array(targets[:, targets.any(axis=0)], dtype=float)
    codes = np.unique(targets, return_inverse=True)[1]
    return coo_array((np.ones(len(codes)), (np.arange(len(codes)), codes))).tocsr()


def _some_groups(order: np.ndarray, sizes: np.ndarray, fraction: float) -> np.ndarray:
    """The first groups, until their rows come nearest to the fraction of all; not every group there is."""
    n_held = int(np.abs(np.cumsum(sizes[order]) - fraction * sizes.sum()).argmin()) + 1
    return order[: min(n_held, len(sizes) - 1)]


def _held_wholly(
    targets: np.ndarray, texts: np.ndarray, validation: np.ndarray, shared: np.ndarray, seed: int
) -> np.ndarray:
    """Rows to validate on, with all rows of their texts.

    In random order, some of the `shared` texts go to validation and the others to training, so that no class
    has more rows held out than before: a text that most rows repeat stays in training. A class that would
    have no text left to validate on gives its least frequent one, if it has another.
    """
    counts, class_of = np.bincount(texts), _class_of_texts(targets, texts)
    torn = np.isin(texts[validation], shared)
    held = set(texts[validation[~torn]].tolist())
    left = np.bincount(class_of[texts[validation[torn]]], minlength=int(class_of.max()) + 1)
    for text in np.random.default_rng(seed).permutation(shared).tolist():
        if counts[text] <= left[class_of[text]]:
            left[class_of[text]] -= counts[text]
            held.add(text)
    n_texts = np.bincount(class_of)
    wanted = set(class_of[texts[validation]].tolist()) - {class_of[text] for text in held}
    for text in np.argsort(counts, kind="stable").tolist() if wanted else ():
        if class_of[text] in wanted and n_texts[class_of[text]] > 1:
            wanted.remove(class_of[text])
            held.add(text)
    return np.flatnonzero(np.isin(texts, list(held)))


def _class_of_texts(targets: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """The class that most rows of each text have; for an indicator matrix, or numbers, all are of one."""
    if targets.ndim == 2:
        return np.zeros(int(texts.max()) + 1, dtype=np.int64)
    n_classes = int(targets.max()) + 1
    pairs, counts = np.unique(texts * n_classes + targets, return_counts=True)
    pairs = pairs[np.argsort(counts, kind="stable")]
    found = np.empty(int(texts.max()) + 1, dtype=np.int64)
    found[pairs // n_classes] = pairs % n_classes  # the last one stays
    return found


def _without_last_ones(
    targets: np.ndarray, groups: np.ndarray, training: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """Rows to validate on, less those of texts, or groups, that alone have classes, or labels, of training.

    They go back one by one: first those with the most lost classes, of these the least frequent.
    """
    while not are_numbers(targets):
        others = np.setdiff1d(np.arange(len(targets)), held)
        if targets.ndim == 1:
            has = targets[held][:, None] == np.setdiff1d(targets[training], targets[others])
        else:
            has = targets[held][:, targets[training].any(axis=0) & ~targets[others].any(axis=0)] == 1
        if has.shape[1] == 0:
            break
        distinct, rows = np.unique(groups[held], return_inverse=True)
        of_groups = np.zeros((len(distinct), has.shape[1]), dtype=bool)
        np.logical_or.at(of_groups, rows, has)
        first = np.lexsort((np.bincount(rows), -of_groups.sum(axis=1)))[0]
        held = held[rows != first]
    return held


def _n_classes(targets: np.ndarray, rows: np.ndarray | slice = slice(None)) -> int:
    """Number of classes, or labels, that occur in some rows; one for numbers."""
    if are_numbers(targets):
        return 1
    return len(np.unique(targets[rows])) if targets.ndim == 1 else int(targets[rows].any(axis=0).sum())


def _hold_out_rows(targets: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows; each class keeps a row in training."""
    if targets.ndim == 2:
        return _hold_out_at_random(targets, fraction, seed)
    n_rows, classes, counts = len(targets), *np.unique(targets, return_counts=True)
    n_validation = round(fraction * n_rows)
    if not 0 < n_validation <= n_rows - len(classes):
        n_left, n_classes = n_rows - n_validation, len(classes)
        too_few = f"leaves {n_left} for training, fewer than one of each of the {n_classes} classes"
        raise _bad_fraction(fraction, n_rows, too_few if n_validation else "leaves none to validate on")
    rows = np.arange(n_rows)
    training = rows[:0]
    if counts.min() > 1 and len(classes) <= n_validation:
        training, validation = train_test_split(
            rows, test_size=n_validation, stratify=targets, random_state=seed
        )
    if len(np.unique(targets[training])) < len(classes):  # a rare class may be only on the larger side
        order = np.random.default_rng(seed).permutation(n_rows)
        one_of_each = order[np.unique(targets[order], return_index=True)[1]]
        validation = order[~np.isin(order, one_of_each)][:n_validation]
        training = np.setdiff1d(rows, validation)
    return np.sort(training), np.sort(validation)


def _bad_fraction(fraction: float, n_rows: int, problem: str) -> InputError:
    return InputError(
        f"validation_fraction={fraction} of {n_rows} texts {problem}. Pass X_val and y_val, more texts, or "
        f"another fraction{f' (one text is {1 / n_rows:.2g})' if n_rows > 1 else ''}."
    )


def _hold_out_at_random(targets: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    n_validation = round(fraction * len(targets))
    if not 0 < n_validation < len(targets):
        problem = "leaves none for training" if n_validation else "leaves none to validate on"
        raise _bad_fraction(fraction, len(targets), problem)
    order = np.random.default_rng(seed).permutation(len(targets))
    if not are_numbers(targets):
        # One text of each label goes to the end of the queue: training should see what validation asks for.
        occurring = np.flatnonzero(targets.any(axis=0))
        last = np.isin(order, order[targets[order][:, occurring].argmax(axis=0)])
        order = np.concatenate([order[~last], order[last]])
    return np.sort(order[n_validation:]), np.sort(order[:n_validation])
