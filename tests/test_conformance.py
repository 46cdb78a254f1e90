"""scikit-learn's own checks through a text adapter, and their twins on texts.

`BertClassifier` takes texts, so scikit-learn's generator of checks, which feeds numbers, has next to
nothing to say about it. `RowsAsText` writes each row of numbers as a short text; everything behind
that is the real class. About sixteen checks then see the adapter's validation only. Each of these
has a twin below, which feeds the real class texts.
"""

from __future__ import annotations

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from outputs import METHODS, assert_same, outputs_of
from rows_as_text import RowsAsText, of_minibatches, run_check
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

from skbert import InputError, InputTypeError, SkbertError

# "tiny" stands for the checkpoint's folder, which no test knows before it runs.
STRICT = RowsAsText(
    "tiny",
    max_length=128,
    head_init="random",
    dropout=0.0,
    epochs=20,
    batch_size=1000,
    learning_rate=1e-2,
    random_state=0,
    device="cpu",
    precision="float64",
)
DEFAULT = RowsAsText(
    "tiny",
    max_length=128,
    head_init="random",
    dropout=0.1,
    epochs=8,
    batch_size=32,
    learning_rate=1e-2,
    random_state=0,
    device="cpu",
    precision="float32",
)


@parametrize_with_checks([STRICT])
def test_scikit_learn_checks_strict(estimator, check, tiny_bert):
    run_check(check, estimator, tiny_bert)


@parametrize_with_checks([DEFAULT], expected_failed_checks=of_minibatches)
def test_scikit_learn_checks_minibatch(estimator, check, tiny_bert):
    run_check(check, estimator, tiny_bert)


def test_generator_yields_all_its_checks():
    # Were the adapter's tags wrong, the generator would silently yield one trivial check.
    checks = [check for _, check in estimator_checks_generator(STRICT)]
    names = {check.func.__name__ for check in checks}
    assert len(checks) >= 67
    assert len(names) >= 62
    assert {
        "check_classifiers_train",
        "check_class_weight_classifiers",
        "check_sample_weight_equivalence_on_dense_data",
        "check_transformer_general",
        "check_methods_subset_invariance",
    } <= names


# --- Twins on texts. Each names the check it stands for. ---

PAIRS = [("the cat", "a dog"), ("a dog", "the cat"), ("red", "blue sky"), ("one", "two")] * 3
PAIR_LABELS = [0, 1, 0, 1] * 3

BAD_CELLS = {
    "None": None,
    "nan": float("nan"),
    "NA": pd.NA,
    "NaT": pd.NaT,
    "int": 3,
    "float": 2.5,
    "inf": np.inf,
    "bool": True,
    "complex": 1 + 2j,
    "bytes": b"text",
    "list": ["a", "b"],
    "dict": {"foo": "bar"},
}

BAD_CONTAINERS = {
    "a string": "a text",
    "bytes": b"a text",
    "None": None,
    "a number": 3,
    "0-d array": np.array("a text"),
    "3 columns": np.full((24, 3), "text"),
    "3 columns of a frame": pd.DataFrame({"a": ["t"] * 24, "b": ["t"] * 24, "c": ["t"] * 24}),
    "3-tuples": [("a", "b", "c")] * 24,
    "ragged tuples": [("a", "b")] * 23 + [("a",)],
    "3-D array": np.full((24, 2, 2), "text"),
    "no column": np.empty((24, 0), dtype=object),
    "no column of a frame": pd.DataFrame(index=range(24)),
    "numbers": np.zeros(24),
    "rows of numbers": np.zeros((24, 2)),
    "complex numbers": np.zeros(24, dtype=complex),
    "csr matrix": sparse.csr_matrix(np.eye(24)),
    "csr array": sparse.csr_array(np.eye(24)),
    "coo array": sparse.coo_array(np.eye(24)),
    "generator": (text for text in ["a"] * 24),
    "set": {"a", "b"},
    "dict": {"a": "b"},
}

EMPTY = {
    "list": [],
    "tuple": (),
    "array": np.empty(0, dtype=object),
    "str array": np.empty(0, dtype="U5"),
    "2-D array": np.empty((0, 2), dtype=object),
    "series": pd.Series([], dtype=str),
    "frame": pd.DataFrame({"text": pd.Series([], dtype=str)}),
}


class NotAnArray:
    """Something that only numpy.asarray can read."""

    def __init__(self, values, dtype=None):
        self.values = np.asarray(values, dtype=dtype)

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)

    def __array_function__(self, func, types, args, kwargs):
        raise TypeError(f"not an array, so no {func.__name__}")


@pytest.fixture(scope="module")
def fitted(make_classifier, reviews):
    return make_classifier().fit(list(reviews[0]), list(reviews[1]))


@pytest.fixture(scope="module")
def fitted_pairs(make_classifier):
    return make_classifier().fit(PAIRS, PAIR_LABELS)


def _assert_refused(estimator, X, y, error, match):
    """`fit` raises and leaves an estimator that was never fitted, with nothing but its parameters."""
    before = dict(vars(estimator))
    with pytest.raises(error, match=match) as caught:
        estimator.fit(X, y)
    assert isinstance(caught.value, SkbertError)
    assert isinstance(caught.value, ValueError)
    assert vars(estimator) == before


@pytest.mark.parametrize("kind", BAD_CELLS)
@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("container", ["list", "array", "series"])
def test_bad_cell_at_fit(make_classifier, reviews, kind, row, container):
    """Twin of check_estimators_nan_inf, check_dtype_object and check_complex_data."""
    cells = list(reviews[0])
    cells[row] = BAD_CELLS[kind]
    X = cells
    if container != "list":
        X = np.empty(len(cells), dtype=object)
        X[:] = cells
        X = pd.Series(X, dtype=object) if container == "series" else X
    # A list that begins with a list reads as rows of columns: then row 1 is the odd one.
    first_bad = 1 if (container, kind, row) == ("list", "list", 0) else row
    _assert_refused(make_classifier(), X, list(reviews[1]), InputTypeError, rf"(?i)row {first_bad}\b")


@pytest.mark.parametrize("kind", BAD_CELLS)
@pytest.mark.parametrize("method", METHODS)
def test_bad_cell_at_predict(fitted, reviews, method, kind):
    """Twin of check_estimators_nan_inf, after fit."""
    cells = list(reviews[0])
    cells[3] = BAD_CELLS[kind]
    before = dict(vars(fitted))
    with pytest.raises(InputTypeError, match=r"(?i)row 3\b"):
        getattr(fitted, method)(cells)
    assert vars(fitted) == before


@pytest.mark.parametrize("dtype", ["str", "string", "string[pyarrow]", "category", object])
def test_missing_text_in_pandas_at_fit(make_classifier, reviews, dtype):
    """Twin of check_estimators_nan_inf for every kind of text column pandas has."""
    cells = list(reviews[0])
    cells[5] = None
    X = pd.Series(cells, dtype=dtype)
    _assert_refused(make_classifier(), X, list(reviews[1]), InputTypeError, r"(?i)row 5\b")
    _assert_refused(make_classifier(), X.to_frame("text"), list(reviews[1]), InputTypeError, r"(?i)row 5\b")


def test_bad_cell_in_second_column(make_classifier, fitted_pairs):
    """Twin of check_estimators_nan_inf for pairs."""
    frame = pd.DataFrame(PAIRS, columns=["first", "second"])
    frame.loc[2, "second"] = None
    _assert_refused(make_classifier(), frame, PAIR_LABELS, InputTypeError, r"(?i)row 2\b")
    rows = [*PAIRS[:4], ("a", 7)]
    with pytest.raises(InputTypeError, match=r"(?i)row 4\b"):
        fitted_pairs.predict(rows)


@pytest.mark.parametrize("kind", BAD_CONTAINERS)
def test_bad_container(make_classifier, fitted, reviews, kind):
    """Twin of check_estimator_sparse_*, check_complex_data, check_fit1d, check_n_features_in."""
    X = BAD_CONTAINERS[kind]
    _assert_refused(make_classifier(), X, list(reviews[1]), InputError, None)
    with pytest.raises(InputError):
        fitted.predict(X)


def test_column_count_is_named(make_classifier, reviews):
    _assert_refused(make_classifier(), np.full((24, 3), "text"), list(reviews[1]), InputError, r"\b3 columns")


@pytest.mark.parametrize("kind", EMPTY)
def test_empty(make_classifier, fitted, kind):
    """Twin of check_estimators_empty_data_messages."""
    _assert_refused(make_classifier(), EMPTY[kind], [], InputError, r"0 sample")
    with pytest.raises(InputError):
        fitted.predict(EMPTY[kind])


def test_pairs_and_single_texts_do_not_mix(fitted, fitted_pairs):
    """Twin of check_n_features_in_after_fitting and check_fit2d_predict1d."""
    assert (fitted.n_features_in_, fitted_pairs.n_features_in_) == (1, 2)
    for method in METHODS:
        with pytest.raises(InputError, match="X has 1 features, but BertClassifier is expecting 2"):
            getattr(fitted_pairs, method)(["the cat", "a dog"])
        with pytest.raises(InputError, match="X has 2 features, but BertClassifier is expecting 1"):
            getattr(fitted, method)(PAIRS)
    with pytest.raises(InputError, match="X has 2 features"):
        fitted.score(PAIRS, PAIR_LABELS)


def test_lengths_that_differ(make_classifier, reviews):
    """Twin of the malformed input of check_classifiers_train."""
    texts, labels = map(list, reviews)
    for y in (labels[:-1], [*labels, "pos"]):
        _assert_refused(make_classifier(), texts, y, InputError, rf"24.*{len(y)}")


def test_y_is_required(make_classifier, reviews):
    """Twin of check_requires_y_none."""
    _assert_refused(make_classifier(), list(reviews[0]), None, InputError, "requires y to be passed")


BAD_LABELS = {
    "nan": ([0.0, 1.0, np.nan] * 8, "NaN|missing"),
    "None": (["a", "b", None] * 8, "missing|NaN|None"),
    "NA": (pd.Series(["a", "b", pd.NA] * 8, dtype="string"), "missing|NaN|NA"),
    "inf": ([0.0, 1.0, np.inf] * 8, "inf"),
    "continuous": (list(np.linspace(0, 1, 24)), "continuous"),
    "one class": (["a"] * 24, "class"),
    "mixed": (["a", 1, 2] * 8, None),
    "labels that are the same everywhere": (np.tile([[0, 1], [0, 1]], (12, 1)), "same for all"),
    "multi-output": (np.tile([[0, 1, 2]], (24, 1)), None),
    "3-D": (np.zeros((24, 2, 2)), None),
    "lists": ([["a"], ["a", "b"]] * 12, None),
    "a string": ("a" * 24, None),
    "a number": (3, None),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_bad_labels(make_classifier, reviews, kind):
    """Twin of check_supervised_y_no_nan, check_classifiers_regression_target, ..._one_label."""
    y, match = BAD_LABELS[kind]
    estimator = make_classifier()
    before = dict(vars(estimator))
    with pytest.raises(ValueError, match=match) as caught:
        estimator.fit(list(reviews[0]), y)
    assert isinstance(caught.value, SkbertError)
    assert vars(estimator) == before


def test_column_of_labels(make_classifier, reviews):
    """Twin of check_supervised_y_2d."""
    texts, labels = list(reviews[0]), np.array(reviews[1])
    flat = make_classifier().fit(texts, labels)
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        column = make_classifier().fit(texts, labels[:, None])
    assert_same(outputs_of(flat, texts), outputs_of(column, texts))


BAD_WEIGHTS = {
    "too few": ([1.0] * 23, "24"),
    "too many": ([1.0] * 48, "24"),
    "2-D": (np.ones((24, 2)), "(?i)weight"),
    "all zero": ([0.0] * 24, r"(?i)weight.*zero|zero.*weight"),
    "negative": ([-1.0] + [1.0] * 23, "is -1 at row 0"),
    "nan": ([np.nan] + [1.0] * 23, "is nan at row 0"),
    "inf": ([np.inf] + [1.0] * 23, "inf"),
    "text": (["a"] * 24, None),
}


@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_bad_weights(make_classifier, reviews, kind):
    """Twin of check_sample_weights_shape and check_all_zero_sample_weights_error."""
    weights, match = BAD_WEIGHTS[kind]
    estimator = make_classifier()
    before = dict(vars(estimator))
    with pytest.raises(ValueError, match=match) as caught:
        estimator.fit(list(reviews[0]), list(reviews[1]), sample_weight=weights)
    assert isinstance(caught.value, SkbertError)
    assert vars(estimator) == before


@pytest.mark.parametrize("head_init", ["random", "linear_probe"])
def test_weights_that_leave_one_class(make_classifier, reviews, head_init):
    """Twin of check_classifiers_one_label_sample_weights."""
    texts, labels = list(reviews[0]), np.array(reviews[1])
    estimator = make_classifier(head_init=head_init)
    with pytest.raises(InputError, match="class"):
        estimator.fit(texts, labels, sample_weight=(labels == "pos").astype(float))
    with pytest.raises(InputError, match="class"):
        estimator.set_params(class_weight={"neg": 0.0}).fit(texts, labels)


def test_failed_fit_keeps_the_fitted_model(make_classifier, reviews):
    texts, labels = map(list, reviews)
    estimator = make_classifier().fit(texts, labels)
    before, outputs = dict(vars(estimator)), outputs_of(estimator, texts)
    for X, y in ((texts, labels[:-1]), ([*texts[:-1], None], labels), (texts, ["a"] * 24)):
        with pytest.raises(SkbertError):
            estimator.fit(X, y)
        assert vars(estimator) == before
    assert_same(outputs, outputs_of(estimator, texts))


def test_not_an_array(make_classifier, fitted, reviews):
    """Twin of check_classifier_data_not_an_array, ..._transformer_..., ..._sample_weights_..."""
    texts, labels = reviews
    weighted = make_classifier().fit(list(texts), list(labels), sample_weight=np.arange(24.0))
    wrapped = make_classifier().fit(
        NotAnArray(texts), NotAnArray(labels), sample_weight=NotAnArray(np.arange(24.0))
    )
    assert_same(outputs_of(weighted, list(texts)), outputs_of(wrapped, NotAnArray(texts, object)))
    with pytest.raises(InputTypeError, match=r"(?i)row 0\b"):
        fitted.predict(NotAnArray(np.zeros(3)))


def test_memory_layout_of_pairs(fitted_pairs):
    """Twin of check_f_contiguous_array_estimator."""
    array = np.array(PAIRS, dtype=object)
    expected = outputs_of(fitted_pairs, PAIRS)
    assert_same(expected, outputs_of(fitted_pairs, np.asfortranarray(array)))
    doubled = np.repeat(array, 2, axis=0)[::2]
    assert_same(expected, outputs_of(fitted_pairs, doubled))


def test_readonly_memory_maps(make_classifier, fitted, reviews, tmp_path):
    """Twin of check_readonly_memmap_input."""
    arrays = [np.array(reviews[0]), np.array(reviews[1]), np.ones(24)]
    joblib.dump(arrays, tmp_path / "arrays")
    texts, labels, weights = joblib.load(tmp_path / "arrays", mmap_mode="r")
    assert isinstance(texts, np.memmap)
    assert not texts.flags.writeable
    mapped = make_classifier().fit(texts, labels, sample_weight=weights)
    assert_same(outputs_of(fitted, list(reviews[0])), outputs_of(mapped, texts))


def test_array_api_dispatch_changes_nothing(make_classifier, fitted, reviews):
    """Twin of check_array_api_input."""
    texts, labels = list(reviews[0]), list(reviews[1])
    with sklearn.config_context(array_api_dispatch=True):
        dispatched = make_classifier().fit(texts, labels)
        assert_same(outputs_of(fitted, texts), outputs_of(dispatched, texts))


def test_frame_column_names(make_classifier, reviews):
    """Twin of check_dataframe_column_names_consistency."""
    texts, labels = list(reviews[0]), list(reviews[1])
    frame = pd.DataFrame({"text": texts})
    estimator = make_classifier().fit(frame, labels)
    assert estimator.feature_names_in_.tolist() == ["text"]
    for method in METHODS:
        getattr(estimator, method)(frame)  # a warning would be an error
        with pytest.raises(ValueError, match="feature names should match"):
            getattr(estimator, method)(frame.rename(columns={"text": "other"}))
    pairs = pd.DataFrame(PAIRS, columns=["first", "second"])
    estimator.fit(pairs, PAIR_LABELS)
    assert estimator.feature_names_in_.tolist() == ["first", "second"]
    with pytest.raises(ValueError, match="feature names"):
        estimator.predict(pairs[["second", "first"]])
    # What an earlier fit knew of names is gone once a fit sees none.
    estimator.fit(texts, labels)
    assert not hasattr(estimator, "feature_names_in_")
    estimator.fit(frame, labels).fit(frame.rename(columns={"text": 0}), labels)
    assert not hasattr(estimator, "feature_names_in_")


@pytest.mark.parametrize("method", [*METHODS, "score", "get_feature_names_out"])
def test_unfitted(make_classifier, reviews, method):
    """Twin of check_estimators_unfitted, check_transformers_unfitted, check_fit_check_is_fitted."""
    arguments = {"score": reviews, "get_feature_names_out": ()}.get(method, reviews[:1])
    estimator = make_classifier()
    with pytest.raises(NotFittedError):
        getattr(estimator, method)(*arguments)
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)


def test_fitted(fitted):
    """Twin of check_fit_check_is_fitted and check_non_transformer_estimators_n_iter."""
    check_is_fitted(fitted)
    assert fitted.n_iter_ == 2
    assert len(fitted.loss_curve_) == 2
    assert np.isfinite(fitted.loss_curve_).all()


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_pickle(make_classifier, reviews, precision):
    """Twin of check_estimators_pickle."""
    texts, labels = map(list, reviews)
    estimator = make_classifier(precision=precision).fit(texts, labels)
    restored = pickle.loads(pickle.dumps(estimator))
    assert_same(outputs_of(estimator, texts), outputs_of(restored, texts))
    assert restored.get_params() == estimator.get_params()
    np.testing.assert_array_equal(restored.classes_, estimator.classes_)


def test_memory_mapped_estimator(fitted, reviews, tmp_path):
    """Twin of check_estimators_pickle(readonly_memmap=True)."""
    joblib.dump(fitted, tmp_path / "model")
    texts = list(reviews[0])
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    assert_same(outputs_of(fitted, texts), outputs_of(mapped, texts))


def test_fit_is_idempotent(make_classifier, fitted, reviews):
    """Twin of check_fit_idempotent."""
    texts, labels = map(list, reviews)
    first = outputs_of(fitted, texts)
    again = make_classifier().fit(texts, labels)
    assert_same(first, outputs_of(again, texts))
    assert_same(first, outputs_of(again.fit(texts, labels), texts))
    assert_same(first, outputs_of(clone(again).fit(texts, labels), texts))


def test_another_seed_gives_another_model(make_classifier, fitted, reviews):
    texts, labels = map(list, reviews)
    other = make_classifier(random_state=1).fit(texts, labels)
    assert (other.decision_function(texts) != fitted.decision_function(texts)).any()


def test_subset_invariance(fitted):
    """Twin of check_methods_subset_invariance, on texts of very different lengths."""
    texts = ["", " ", "good", "the cat and the dog " * 4, "bad", "a" * 300, "war is bad " * 3]
    whole = outputs_of(fitted, texts)
    for method in METHODS:
        single = np.concatenate([getattr(fitted, method)([text]) for text in texts])
        if method == "predict":
            np.testing.assert_array_equal(whole[method], single)
        else:
            np.testing.assert_allclose(whole[method], single, rtol=1e-5, atol=1e-6)


def test_order_invariance(fitted, reviews):
    """Twin of check_methods_sample_order_invariance."""
    texts = [*reviews[0], "", "the cat and the dog " * 4]
    order = np.random.RandomState(0).permutation(len(texts))
    shuffled = [texts[i] for i in order]
    for method in METHODS:
        rows = np.asarray(getattr(fitted, method)(texts))[order]
        if method == "predict":
            np.testing.assert_array_equal(rows, getattr(fitted, method)(shuffled))
        else:
            np.testing.assert_allclose(rows, getattr(fitted, method)(shuffled), rtol=1e-5, atol=1e-6)


def test_predict_changes_nothing(fitted, reviews):
    """Twin of check_dict_unchanged."""
    before, content = dict(vars(fitted)), pickle.dumps(fitted)
    weights = copy.deepcopy(fitted.model_.state_dict())
    for method in METHODS:
        getattr(fitted, method)(list(reviews[0]))
        assert vars(fitted).keys() == before.keys()
        assert all(vars(fitted)[name] is value for name, value in before.items())
    assert pickle.dumps(fitted) == content
    for name, tensor in fitted.model_.state_dict().items():
        assert tensor.equal(weights[name]), name
    assert not fitted.model_.training


def test_fit_changes_neither_parameters_nor_data(make_classifier, reviews):
    """Twin of check_dont_overwrite_parameters and check_sample_weights_not_overwritten."""
    frame, labels = pd.DataFrame({"text": reviews[0]}), pd.Series(reviews[1])
    weights = np.arange(24.0)
    copies = frame.copy(), labels.copy(), weights.copy()
    estimator = make_classifier(class_weight={"neg": 1.0, "pos": 2.0})
    before = dict(vars(estimator))
    assert estimator.fit(frame, labels, sample_weight=weights) is estimator
    assert all(vars(estimator)[name] is value for name, value in before.items())
    assert all(name.endswith("_") for name in vars(estimator).keys() - before.keys())
    pd.testing.assert_frame_equal(frame, copies[0])
    pd.testing.assert_series_equal(labels, copies[1])
    np.testing.assert_array_equal(weights, copies[2])


def test_refit_on_other_classes_and_columns(make_classifier, reviews):
    """Twin of check_estimators_overwrite_params: a second fit is a first fit."""
    estimator = make_classifier().fit(list(reviews[0]), list(reviews[1]))
    estimator.fit(PAIRS, ["x", "y", "z", "y"] * 3)
    fresh = make_classifier().fit(PAIRS, ["x", "y", "z", "y"] * 3)
    assert estimator.classes_.tolist() == ["x", "y", "z"]
    assert estimator.n_features_in_ == 2
    assert vars(estimator).keys() == vars(fresh).keys()
    assert_same(outputs_of(fresh, PAIRS), outputs_of(estimator, PAIRS))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("precision", "dtype"), [("float32", np.float32), ("float64", np.float64)])
def test_outputs_agree(make_classifier, reviews, n_classes, precision, dtype):
    """Twin of check_classifiers_train and check_decision_proba_consistency."""
    texts = list(reviews[0])
    labels = np.arange(24) % n_classes
    estimator = make_classifier(precision=precision).fit(texts, labels)
    outputs = outputs_of(estimator, texts)
    probabilities, decisions = outputs["predict_proba"], outputs["decision_function"]
    assert probabilities.shape == (24, n_classes)
    assert {probabilities.dtype, decisions.dtype, outputs["predict_log_proba"].dtype} == {np.dtype(dtype)}
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.exp(outputs["predict_log_proba"]), probabilities, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(outputs["predict"], probabilities.argmax(axis=1))
    if n_classes == 2:
        assert decisions.shape == (24,)
        np.testing.assert_array_equal(outputs["predict"], (decisions > 0).astype(int))
        order = decisions.argsort()
        assert (np.diff(probabilities[order, 1]) >= 0).all()
    else:
        assert decisions.shape == (24, n_classes)
        np.testing.assert_array_equal(outputs["predict"], decisions.argmax(axis=1))
    assert outputs["transform"].shape == (24, 32)
    assert outputs["transform"].dtype == dtype


def test_fit_transform(make_classifier, fitted, reviews):
    """Twin of check_transformer_general and check_pipeline_consistency."""
    texts, labels = map(list, reviews)
    embeddings = make_classifier().fit_transform(texts, labels)
    np.testing.assert_array_equal(embeddings, fitted.transform(texts))
    pipeline = make_pipeline(make_classifier()).fit(texts, labels)
    assert pipeline.score(texts, labels) == fitted.score(texts, labels)


def test_learns_the_training_texts(make_classifier, reviews):
    """Twin of the training score of check_classifiers_train."""
    texts, labels = map(list, reviews)
    estimator = make_classifier(epochs=20, head_init="random").fit(texts, labels)
    assert estimator.score(texts, labels) >= 0.95
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0] / 2


def test_one_text_of_each_class(make_classifier):
    """Twin of check_fit2d_1sample."""
    estimator = make_classifier().fit(["good", "bad"], [1, 0])
    assert estimator.predict_proba(["good"]).shape == (1, 2)
    _assert_refused(make_classifier(), ["good"], [1], InputError, "class")


def test_empty_and_blank_texts_are_texts(make_classifier):
    texts = ["", " ", "\n\t", "\x00", "good"] * 4
    estimator = make_classifier().fit(texts, [0, 1] * 10)
    probabilities = estimator.predict_proba([*texts, "  "])
    assert np.isfinite(probabilities).all()
