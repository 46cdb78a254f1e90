"""What a classifier gives for texts, by every method."""

import numpy as np

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")


def outputs_of(estimator, X):
    return {method: getattr(estimator, method)(X) for method in METHODS}


def assert_same(first, second):
    """Whether two models gave the same, bit for bit."""
    for method in METHODS:
        np.testing.assert_array_equal(first[method], second[method], err_msg=method)
