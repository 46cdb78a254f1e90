"""Labels against scikit-learn's own results."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.utils.class_weight import compute_sample_weight

from skbert import InputError
from skbert.labels import (
    decision_values,
    encode_labels,
    log_probabilities,
    make_loss,
    probabilities,
    row_weights,
)

KINDS = {
    "str": ["b", "a", "c", "a"],
    "int": [3, -1, 7, -1],
    "bool": [True, False, True, True],
    "numpy str": np.array(["b", "a", "c", "a"]),
    "float that are ints": [1.0, 2.0, 1.0, 3.0],
    "Categorical": pd.Series(["b", "a", "c", "a"], dtype=pd.CategoricalDtype(["c", "b", "a", "unused"])),
    "bare Categorical": pd.Categorical(["b", "a", "c", "a"]),
    "string dtype": pd.Series(["b", "a", "c", "a"], dtype="string"),
    "Int64": pd.Series([3, -1, 7, -1], dtype="Int64"),
    "boolean": pd.Series([True, False, True, True], dtype="boolean"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_classes_and_codes_as_np_unique(kind):
    labels = encode_labels(KINDS[kind], 4)
    plain = np.asarray(list(KINDS[kind]))
    classes, codes = np.unique(plain, return_inverse=True)
    assert labels.classes.tolist() == classes.tolist()
    assert labels.codes.tolist() == codes.tolist()
    assert labels.kind == ("binary" if len(classes) == 2 else "multiclass")
    assert labels.n_outputs == len(classes)


def test_a_thousand_classes():
    labels = encode_labels(np.arange(2000) % 1000, 2000)
    assert labels.n_outputs == 1000
    assert labels.codes[1500] == 500


def test_column_vector_is_taken_with_scikit_learns_warning():
    from sklearn.exceptions import DataConversionWarning

    with pytest.warns(DataConversionWarning):
        assert encode_labels(np.array([[0], [1]]), 2).codes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (None, "requires y"),
        (["a", "a"], "greater than one; got 1 class"),
        (["a", "b", "c"], r"inconsistent numbers of samples: \[2, 3\]"),
        (["a", None], "row 1"),
        ([0.0, float("nan")], "row 1"),
        (pd.Series(["a", pd.NA], dtype="string"), "row 1"),
        (["a", 1], "mixes str"),
        (np.array(["a", 1], dtype=object), "mixes str"),
        (pd.Series(["a", 1], dtype=object), "mixes str"),
        ([0.5, 1.7], "continuous"),
        (np.array([[0, 1], [1, 0]]), "2-D"),
        (np.array([[0, 1], [1, 2]]), "2-D"),
    ],
)
def test_bad_labels(y, said):
    with (
        pytest.raises(InputError, match=said)
        if said != "continuous"
        else pytest.raises(ValueError, match=said)
    ):
        encode_labels(y, 2)


def test_row_weights_are_one_by_default():
    labels = encode_labels(["a", "b", "a"], 3)
    assert row_weights(labels, None, None).tolist() == [1, 1, 1]


def test_row_weights_balanced_as_scikit_learn():
    y = ["a"] * 6 + ["b"] * 2
    weights = row_weights(encode_labels(y, 8), None, "balanced")
    np.testing.assert_allclose(weights, compute_sample_weight("balanced", y))


def test_balanced_ignores_classes_of_weight_zero():
    weights = row_weights(encode_labels(["a", "b", "c", "b"], 4), [1, 1, 0, 1], "balanced")
    np.testing.assert_allclose(weights, [1.5, 0.75, 0, 0.75])


def test_row_weights_combine():
    weights = row_weights(encode_labels(["a", "b", "a"], 3), [1, 2, 0], {"a": 3, "b": 1})
    assert weights.tolist() == [3, 2, 0]


@pytest.mark.parametrize(
    ("sample_weight", "class_weight", "said"),
    [
        ([0, 0], None, "zero"),
        ([1, -1], None, "[Nn]egative"),
        ([1], None, "sample_weight"),
        ([1e300, 1e300], None, "too large"),
        ([1e-320, 1e-320], None, "too small"),
        ([1, float("nan")], None, "NaN"),
        (None, {"a": 0, "b": 0}, "weight above zero"),
        (None, {"a": 0, "b": 1}, r"only \['b'\]"),
        (None, {"a": -1, "b": 1}, "class_weight"),
    ],
)
def test_bad_weights(sample_weight, class_weight, said):
    with pytest.raises(ValueError, match=said):
        row_weights(encode_labels(["a", "b"], 2), sample_weight, class_weight)


def test_loss_of_weight_two_is_the_row_twice():
    logits = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    weighted = make_loss(0.0)(logits, torch.tensor([0, 1]), torch.tensor([4 / 3, 2 / 3]))
    doubled = torch.nn.functional.cross_entropy(logits[[0, 0, 1]], torch.tensor([0, 0, 1]))
    torch.testing.assert_close(weighted, doubled)


def test_label_smoothing_mixes_in_the_uniform_distribution():
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    smooth = make_loss(0.3)(logits, torch.tensor([1]), torch.ones(1))
    target = torch.tensor([[0.1, 0.8, 0.1]])
    torch.testing.assert_close(smooth, -(target * logits.log_softmax(1)).sum())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_as_scipy(dtype):
    logits = np.random.default_rng(0).normal(0, 30, (50, 7)).astype(dtype)
    values = probabilities(logits)
    assert values.dtype == dtype
    np.testing.assert_allclose(values, softmax(logits, axis=1), rtol=1e-5)
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(log_probabilities(logits), log_softmax(logits, axis=1), rtol=1e-5)


def test_log_probabilities_stay_finite():
    assert np.isfinite(log_probabilities(np.array([[0.0, 500.0]], dtype=np.float32))).all()


def test_decision_values():
    binary = np.array([[1.0, 3.0]])
    assert decision_values(binary).tolist() == [2.0]
    np.testing.assert_allclose(1 / (1 + np.exp(-decision_values(binary))), probabilities(binary)[:, 1])
    assert decision_values(np.ones((2, 3))).shape == (2, 3)
