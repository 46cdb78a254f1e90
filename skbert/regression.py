"""What is specific to regressors: numbers → standardized numbers on the way in, and back on the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted

from skbert.data.columns import check_same_columns
from skbert.data.containers import computed
from skbert.data.inputs import Texts
from skbert.data.mistakes import check_numbers_of_texts
from skbert.data.numbers import (
    Numbers,
    NumbersType,
    check_n_columns,
    check_spread,
    known_numbers,
    number_values,
    standardize,
)
from skbert.data.outputs import in_units
from skbert.data.weights import check_text_weights
from skbert.learning import LearningMixin
from skbert.prediction import PredictionMixin
from skbert.training.callbacks import with_callbacks
from skbert.training.distributed import on_all_ranks


class RegressionMixin(PredictionMixin, RegressorMixin, LearningMixin):
    """Numbers: `partial_fit`, `predict` and `score`."""

    _learns_numbers: ClassVar = True
    if TYPE_CHECKING:
        target_type_: NumbersType
        target_names_: np.ndarray | None
        target_mean_: np.ndarray
        target_scale_: np.ndarray

    @with_callbacks
    @on_all_ranks
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one more epoch, on these texts; an unfitted estimator starts from the checkpoint.

        The optimizer's state carries over from call to call (it starts anew for a model that was stored and
        loaded). The learning rate rises over the first 20 steps, or not at all if `warmup_ratio` is 0, and
        then stays constant. The mean and the scale of the numbers stay those of the first call, whose numbers
        should resemble those to come. Sample weights are relative to the other texts of the call. Scores of
        an earlier validation stay only in `history_`.

        Parameters
        ----------
        X : array-like of str, shape (n_samples,), (n_samples, 1) or (n_samples, 2)
            Texts, or pairs of texts.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Numbers, as in `fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each text.

        Returns
        -------
        self : BertRegressor
            If anything fails, the estimator is as it was before the call.

        Raises
        ------
        InputError
            If y has another form or other columns than in earlier calls, or is the same for all texts in the
            first call; or if a parameter is set that `partial_fit` does not support: `early_stopping`,
            `lora`, `freeze` "gradual", `checkpoint`. And everything that `fit` raises.
        """

        def read(texts: Texts) -> tuple[Numbers, np.ndarray, np.ndarray]:
            known = self._known_target() if hasattr(self, "model_") else None
            found = self._read_target(y, texts, sample_weight, known)
            if known is None:
                check_spread(*found[:2])
            return found

        return self._fit_one_epoch(X, y, sample_weight, read)

    def predict(self, X: Any) -> np.ndarray:
        """Predicted number, or numbers, of each text.

        Parameters
        ----------
        X : array-like of str
            Texts or pairs, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs), float64
            Shaped as y was in `fit`. Computed in the arithmetic of `precision`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        InputError, InputTypeError
            If texts cannot be used (the first bad row is named), or the device is not available.
        ValueError
            If the text columns have other names than in `fit`.
        NonFiniteOutputError
            If the model gives NaN or infinity for a text.
        InsufficientMemoryError
            If a single text, or the model, does not fit into memory.
        """
        now = self._snapshot()
        outputs = now._run(X, "logits")
        return in_units(outputs, now.target_mean_, now.target_scale_, now.target_type_)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R², the fraction of the variance of y that is explained; the mean R² for several numbers per text.

        Parameters
        ----------
        X : array-like of str
            Texts or pairs, as in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each text.

        Returns
        -------
        float

        Raises
        ------
        InputError
            If y holds anything but finite numbers, or its columns have other names or another order than
            those of `fit`; if a weight is missing or negative. And everything that `predict` raises.
        """
        check_is_fitted(self)
        now, X = self._snapshot(), computed(X)
        known = now._known_target()
        numbers = number_values(y, len(now._texts(X)), "y")
        check_n_columns(numbers, known)
        check_same_columns(y, known.names)
        weights = None if sample_weight is None else check_text_weights(len(numbers), sample_weight)
        return float(r2_score(numbers, now.predict(X), sample_weight=weights))

    def _known_target(self) -> Numbers:
        """Mean and scale of the fit, and the names of its columns, without any text."""
        names = getattr(self, "target_names_", None)  # missing from the earliest files
        return known_numbers(self.target_type_, self.target_mean_, self.target_scale_, names)

    def _read_target(
        self, y: Any, texts: Texts, sample_weight: Any, known: Any
    ) -> tuple[Numbers, np.ndarray, np.ndarray]:
        """Numbers, the weight of each text, and the weight of each of its numbers."""
        weights = check_text_weights(len(texts), sample_weight)
        numbers = standardize(y, weights, known)
        check_numbers_of_texts(texts, numbers, goes_on=known is not None)
        return numbers, weights[:, None], np.ones(numbers.n_outputs)
