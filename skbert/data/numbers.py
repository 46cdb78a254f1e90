"""From the numbers in y to what a regression trains on.

1. y is one number per text ("continuous"), or several ("continuous-multioutput"), in the words of
   scikit-learn's `type_of_target`.
2. They are standardized, so that one learning rate suits any unit, and the head need not first move to
   their range.
3. A model that continues training keeps its mean and scale.

The way back is in `outputs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, NoReturn

import numpy as np

from skbert.data.columns import check_same_columns, names_of_columns
from skbert.data.containers import computed, unmasked
from skbert.data.targets import check_finite, first_missing
from skbert.exceptions import InputError
from skbert.process.float_errors import ignoring_float_errors

NumbersType = Literal["continuous", "continuous-multioutput"]

_FARTHEST = 1e15  # standard deviations from the mean; squared, it must fit into float32


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers of every text, as they were given and as they are learned."""

    given: np.ndarray  # (n_samples,) or (n_samples, n_outputs) float64
    targets: np.ndarray  # (n_samples, n_outputs) float64: standardized
    means: np.ndarray  # (n_outputs,) float64
    scales: np.ndarray  # (n_outputs,) float64: standard deviations; 1 for numbers that are all the same
    names: np.ndarray | None = None  # of the columns, if y was a table

    @property
    def target_type(self) -> NumbersType:
        """The type of target, as scikit-learn names it."""
        return "continuous" if self.given.ndim == 1 else "continuous-multioutput"

    @property
    def n_outputs(self) -> int:
        """Numbers per text."""
        return len(self.means)

    def values(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of some rows, in the units that the user gave."""
        return self.given[rows]

    def of_held_out(self, y: Any, n_texts: int) -> np.ndarray:
        """Numbers of texts to validate on."""
        values = number_values(y, n_texts, "y_val")
        _check_like(values, self, "y_val")
        check_same_columns(y, self.names, "y_val")
        return values

    def attributes(self) -> dict[str, Any]:
        """What a fitted estimator keeps."""
        return {
            "target_type_": self.target_type,
            "target_names_": self.names,
            "target_mean_": self.means,
            "target_scale_": self.scales,
        }


def are_numbers(targets: np.ndarray) -> bool:
    """Whether targets are those of a regression, and not codes."""
    return targets.dtype.kind == "f"


def known_numbers(
    target_type: NumbersType, means: np.ndarray, scales: np.ndarray, names: np.ndarray | None = None
) -> Numbers:
    """What a fitted estimator knows about its target, without any text."""
    none = np.empty((0, len(means)))
    return Numbers(none[:, 0] if target_type == "continuous" else none, none, means, scales, names)


def standardize(y: Any, weights: np.ndarray, known: Numbers | None = None) -> Numbers:
    """Check y and standardize it.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Numbers.
    weights : ndarray of shape (n_samples,)
        Weight of each text in mean and scale.
    known : Numbers, default=None
        Of a model that continues training: its mean and scale are used, and its columns are expected.

    Raises
    ------
    InputError
        If y is missing, of another length or form, has other columns, or holds anything but finite numbers;
        or if some lie too far from the mean to compute with.
    """
    given = number_values(y, len(weights), "y")
    columns, names = given.reshape(len(given), -1), names_of_columns(y)
    if known is None:
        means, scales = _moments(columns[weights > 0], weights[weights > 0])
    else:
        _check_like(given, known, "y")
        check_same_columns(y, known.names)
        means, scales, names = known.means, known.scales, known.names if names is None else names
    targets = _standardized(columns, means, scales)
    is_far = ~(np.abs(targets) < _FARTHEST).all(axis=1)
    targets[is_far & (weights == 0)] = 0.0  # nothing reads them
    far = np.flatnonzero(is_far & (weights > 0))
    if len(far):
        raise InputError(
            f"y is {given[far[0]].tolist()!r} at row {far[0]}, too far from the mean to compute with (mean "
            f"{means.tolist()}, standard deviation {scales.tolist()}). Leave such rows out, or train on "
            "logarithms of y; a model that continues training keeps its mean and scale."
        )
    return Numbers(given, targets, means, scales, names)


@ignoring_float_errors
def _standardized(columns: np.ndarray, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return (columns - means) / scales


def check_spread(numbers: Numbers, weights: np.ndarray) -> None:
    """Refuse numbers that are all the same where they set the scale for all numbers to come.

    Those of weight zero, in `weights` (n_samples, 1), do not count.
    """
    counted = numbers.targets[weights[:, 0] > 0]
    same = np.flatnonzero(np.ptp(counted, axis=0) < 1)  # others span two standard deviations at least
    if len(same):
        where = "" if numbers.given.ndim == 1 else f"in column {same[0]} "
        raise InputError(
            f"y is {numbers.means[same[0]]:g} {where}for all {len(counted)} texts of the first call to "
            "partial_fit, which fixes the mean and the scale. Start with texts whose numbers vary as much "
            "as those of later calls."
        )


@ignoring_float_errors
def _moments(columns: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means and standard deviations, even of numbers whose squares would overflow."""
    peaks = np.abs(columns).max(axis=0)
    peaks[peaks == 0] = 1.0
    shares, relative = weights / weights.sum(), columns / peaks
    means = shares @ relative
    scales = np.sqrt(shares @ (relative - means) ** 2) * peaks
    # Equal up to rounding, as 0.3 and 0.1 + 0.2 are.
    same = (columns == columns[0]).all(axis=0) | (scales <= 10 * np.finfo(float).eps * np.abs(means * peaks))
    return np.where(same, columns[0], means * peaks), np.where(same, 1.0, scales)


def number_values(y: Any, n_texts: int, name: str) -> np.ndarray:
    """The numbers in y, (n_samples,) or (n_samples, n_outputs) float64, or an error that names the fault."""
    if y is None or isinstance(y, str | bytes):
        raise InputError(
            f"BertRegressor requires y to be passed, but the target {name} is {y!r}. Pass one number per "
            "text."
        )
    y = unmasked(computed(y))
    if hasattr(y, "toarray") and not hasattr(y, "iloc"):
        raise InputError(f"Sparse data was passed for {name}, but dense data is required. Use .toarray().")
    try:
        missing, values = first_missing(y), np.asarray(y)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:  # ragged lists, tensors, ...
        raise InputError(f"{name} cannot be read as numbers ({error}). Pass one number per text.") from error
    if missing is not None:
        raise InputError(
            f"Input {name} contains NaN (a missing number) at row {missing}. Drop the rows without one."
        )
    if values.ndim not in (1, 2) or values.shape[1:] == (0,):
        raise InputError(
            f"{name} has the shape {values.shape}. Expected one number per text, or one row of numbers per "
            "text."
        )
    if len(values) != n_texts:
        raise InputError(
            f"Found input variables with inconsistent numbers of samples: [{n_texts}, {len(values)}] (texts, "
            f"numbers in {name})."
        )
    if values.dtype.kind not in "biuf":
        # numpy has converted a list with one str in it to str as a whole.
        _check_cells(np.array(y, dtype=object) if isinstance(y, list | tuple) else values, name)
    numbers = _as_float64(values)
    check_finite(numbers, name, "Numbers")
    return numbers


@ignoring_float_errors
def _as_float64(values: np.ndarray) -> np.ndarray:
    """Row by row in memory: the last bits of sums, as in a scorer, depend on where the numbers are."""
    return values.astype(np.float64, order="C")


def _check_cells(values: np.ndarray, name: str) -> None:
    """Refuse what is not a number but might be read as one: dates, and str of digits."""
    for row, cells in enumerate(values.reshape(len(values), -1)):
        for cell in cells:
            if not isinstance(cell, Real | Decimal | np.bool_) or isinstance(cell, np.timedelta64):
                remedy = "Convert it, for example with pd.to_numeric; to learn classes, use BertClassifier."
                if isinstance(cell, list | tuple | np.ndarray):
                    remedy = f"Several numbers per text must form a matrix: pass np.stack({name})."
                raise InputError(
                    f"{name} has {str(cell)[:60]!r} (type {type(cell).__name__}) at row {row}, where a "
                    f"number is expected. {remedy}"
                )
            try:
                float(cell)
            except ArithmeticError as error:
                raise InputError(f"{name} at row {row} is too large for float64 ({error}).") from error


def check_n_columns(values: np.ndarray, known: Numbers) -> None:
    """Refuse a y with other than the known count of numbers per text; one per text may be a column."""
    if values.reshape(len(values), -1).shape[1] != known.n_outputs:
        _refuse_shape(values, known, "y")


def _check_like(values: np.ndarray, known: Numbers, name: str) -> None:
    if values.shape[1:] != known.given.shape[1:]:
        _refuse_shape(values, known, name)


def _refuse_shape(values: np.ndarray, known: Numbers, name: str) -> NoReturn:
    expected = "one number per text" if known.given.ndim == 1 else f"{known.n_outputs} numbers per text"
    raise InputError(f"{name} has the shape {values.shape}. Expected {expected}, as in the fit.")
