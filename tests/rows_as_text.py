"""Estimators for rows of numbers, for scikit-learn's checks: [-1.4, 3.6] is read as "f0bm3 f1bp7"."""

from __future__ import annotations

import unittest
from typing import Any, ClassVar

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted, validate_data

from skbert import BertClassifier, BertRegressor


class OfRows:
    """What both estimators do; everything behind the texts is the real class."""

    real: ClassVar[Any]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        tags.input_tags.string = False
        return tags

    def fit(self, X, y, sample_weight=None):
        X = validate_data(self, X)
        columns, names = self.n_features_in_, getattr(self, "feature_names_in_", None)
        super().fit(as_texts(X), y, sample_weight=sample_weight)
        self.n_features_in_ = columns
        if names is not None:
            self.feature_names_in_ = names
        return self

    def fit_transform(self, X, y, **fit_params):
        return self.fit(X, y, **fit_params).transform(X)

    def predict(self, X):
        return self._on_texts("predict", X)

    def transform(self, X):
        return self._on_texts("transform", X)

    def score(self, X, y, sample_weight=None):
        return self._on_texts("score", X, y, sample_weight=sample_weight)

    def _partial_fit(self, X, *args):
        X = validate_data(self, X, reset=not hasattr(self, "model_"))
        columns, self.n_features_in_ = self.n_features_in_, 1
        try:
            return super().partial_fit(as_texts(X), *args)
        finally:
            self.n_features_in_ = columns

    def _on_texts(self, method, X, *args, **kwargs):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        # The real class, as it would be fitted on one column of texts, over the same attributes.
        real = object.__new__(self.real)
        real.__dict__.update(self.__dict__)
        real.n_features_in_ = 1
        real.__dict__.pop("feature_names_in_", None)
        return getattr(real, method)(as_texts(X), *args, **kwargs)


class RowsAsText(OfRows, BertClassifier):
    """`BertClassifier` for rows of numbers."""

    real = BertClassifier

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        return self._partial_fit(X, y, classes, sample_weight)

    def predict_proba(self, X):
        return self._on_texts("predict_proba", X)

    def predict_log_proba(self, X):
        return self._on_texts("predict_log_proba", X)

    def decision_function(self, X):
        return self._on_texts("decision_function", X)


class RowsAsTextRegressor(OfRows, BertRegressor):
    """`BertRegressor` for rows of numbers."""

    real = BertRegressor

    def partial_fit(self, X, y, sample_weight=None):
        return self._partial_fit(X, y, sample_weight)


def as_texts(X):
    """Write each value as its column and the half unit it lies in; the tiny BERT knows the words."""
    halves = np.clip(np.round(2 * np.asarray(X, dtype=float)), -31, 31).astype(int)
    return [
        " ".join(f"f{column}b{'m' if v < 0 else 'p'}{abs(v)}" for column, v in enumerate(row))
        for row in halves
    ]


def of_minibatches(estimator):
    """The checks that must fail where there are mini-batches."""
    return {
        "check_sample_weight_equivalence_on_dense_data": (
            "a row of weight two is drawn once an epoch, two rows are drawn in two minibatches"
        )
    }


def run_check(check, estimator, model):
    """Run one of scikit-learn's checks, which must not skip itself."""
    try:
        check(clone(estimator).set_params(model=model))
    except (unittest.SkipTest, pytest.skip.Exception) as reason:
        pytest.fail(f"the check skipped itself: {reason}")
