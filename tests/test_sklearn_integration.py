"""`BertClassifier` inside scikit-learn: searches, pipelines, meta-estimators, containers, labels."""

from __future__ import annotations

import array
import shutil
import subprocess
import sys
import textwrap
import warnings

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sklearn
from outputs import assert_same, outputs_of
from scipy.special import softmax
from sklearn.base import BaseEstimator, TransformerMixin, clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils import get_tags

from skbert import BertClassifier, SkbertWarning, TruncationWarning

since_1_8 = pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8), reason="needs scikit-learn 1.8"
)


def lower(X):
    """A cleaning step that worker processes can import."""
    return [text.lower() for text in X]


@pytest.fixture(scope="module")
def fitted(make_classifier, reviews):
    return make_classifier().fit(list(reviews[0]), list(reviews[1]))


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# --- Searches, pipelines and meta-estimators ---


def test_grid_search_over_a_pipeline(make_classifier, reviews):
    texts, labels = map(list, reviews)
    pipeline = Pipeline([("clean", FunctionTransformer(lower)), ("bert", make_classifier())])
    search = GridSearchCV(
        pipeline,
        {"bert__epochs": [1, 15], "bert__pooling": ["cls", "mean"]},
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
        error_score="raise",
    )
    search.fit(texts, labels)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_params_["bert__epochs"] == 15
    assert search.best_estimator_["bert"].n_iter_ == 15
    np.testing.assert_array_equal(search.classes_, ["neg", "pos"])
    # The refit model is the model that one gets by hand.
    by_hand = clone(pipeline).set_params(**search.best_params_).fit(texts, labels)
    np.testing.assert_array_equal(search.predict_proba(texts), by_hand.predict_proba(texts))
    assert search.score(texts, labels) >= 0.9


def test_threads_give_the_same_scores(make_classifier, reviews):
    texts, labels = map(list, reviews)
    estimator = make_classifier(dropout=0.1)
    serial = cross_val_predict(estimator, texts, labels, cv=4, method="decision_function")
    with joblib.parallel_config("threading"):
        threads = cross_val_predict(estimator, texts, labels, cv=4, method="decision_function", n_jobs=2)
    np.testing.assert_array_equal(serial, threads)


def test_cross_validation(make_classifier, reviews):
    texts, labels = map(list, reviews)
    result = cross_validate(
        make_classifier(),
        texts,
        labels,
        cv=3,
        scoring=["accuracy", "roc_auc", "neg_log_loss"],
        return_estimator=True,
        return_train_score=True,
        error_score="raise",
    )
    assert len(result["estimator"]) == 3
    assert all(is_classifier(estimator) for estimator in result["estimator"])
    for scores in ("test_accuracy", "test_roc_auc", "train_neg_log_loss"):
        assert np.isfinite(result[scores]).all()
    probabilities = cross_val_predict(make_classifier(), texts, labels, cv=3, method="predict_proba")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_cross_validation_of_frames_and_pairs(make_classifier, reviews):
    texts, labels = list(reviews[0]), pd.Series(reviews[1], index=range(100, 124))
    frame = pd.DataFrame({"text": texts}, index=range(100, 124))
    pairs = frame.assign(other=texts[::-1])
    single = cross_val_score(make_classifier(), frame, labels, cv=3, error_score="raise")
    np.testing.assert_array_equal(single, cross_val_score(make_classifier(), texts, list(labels), cv=3))
    double = cross_val_score(make_classifier(), pairs, labels, cv=3, error_score="raise")
    as_tuples = list(zip(texts, texts[::-1], strict=True))
    np.testing.assert_array_equal(double, cross_val_score(make_classifier(), as_tuples, list(labels), cv=3))


def test_learning_curve(make_classifier, reviews):
    texts, labels = map(list, reviews)
    sizes, _, scores = learning_curve(
        make_classifier(), texts, labels, train_sizes=[8, 12], cv=2, error_score="raise"
    )
    assert sizes.tolist() == [8, 12]
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("voting", ["hard", "soft"])
def test_voting(make_classifier, reviews, voting):
    texts, labels = map(list, reviews)
    ensemble = VotingClassifier(
        [
            ("first", make_classifier()),
            ("second", make_classifier(random_state=1)),
            ("words", make_pipeline(TfidfVectorizer(), LogisticRegression())),
        ],
        voting=voting,
    ).fit(texts, labels)
    assert set(ensemble.predict(texts)) <= {"neg", "pos"}
    if voting == "soft":
        members = [member.predict_proba(texts) for member in ensemble.estimators_]
        np.testing.assert_allclose(ensemble.predict_proba(texts), np.mean(members, axis=0))


def test_stacking(make_classifier, reviews):
    texts, labels = map(list, reviews)
    stack = StackingClassifier(
        [
            ("bert", make_classifier()),
            ("words", make_pipeline(TfidfVectorizer(), LogisticRegression())),
        ],
        LogisticRegression(),
        cv=2,
    ).fit(texts, labels)
    assert stack.predict_proba(texts).shape == (24, 2)


@pytest.mark.parametrize("ensemble", [True, False])
@pytest.mark.parametrize("method", ["sigmoid", "isotonic", pytest.param("temperature", marks=since_1_8)])
def test_calibration(make_classifier, reviews, method, ensemble):
    texts, labels = map(list, reviews)
    calibrated = CalibratedClassifierCV(make_classifier(), method=method, cv=2, ensemble=ensemble).fit(
        texts, labels
    )
    probabilities = calibrated.predict_proba(texts)
    assert probabilities.shape == (24, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_one_versus_rest(make_classifier, reviews):
    texts, labels = list(reviews[0]), ["a", "b", "c"] * 8
    rest = OneVsRestClassifier(make_classifier()).fit(texts, labels)
    assert len(rest.estimators_) == 3
    assert rest.predict_proba(texts).shape == (24, 3)
    assert set(rest.predict(texts)) <= {"a", "b", "c"}


def test_several_outputs(make_classifier, reviews):
    texts, y = list(reviews[0]), np.stack([np.arange(24) % 2, np.arange(24) % 3], axis=1)
    outputs = MultiOutputClassifier(make_classifier(epochs=1)).fit(texts, y)
    assert outputs.predict(texts).shape == (24, 2)
    assert [len(member.classes_) for member in outputs.estimators_] == [2, 3]


def test_tuned_threshold(make_classifier, reviews):
    texts, y = list(reviews[0]), np.arange(24) % 2
    tuned = TunedThresholdClassifierCV(make_classifier(epochs=1), cv=2, scoring="balanced_accuracy")
    found = tuned.fit(texts, y).predict(texts)
    positive = tuned.estimator_.predict_proba(texts)[:, 1] >= tuned.best_threshold_
    assert found.tolist() == positive.astype(int).tolist()


def test_bagging_takes_a_table_of_one_column(make_classifier, reviews):
    frame, labels = pd.DataFrame({"text": reviews[0]}), list(reviews[1])
    bag = BaggingClassifier(make_classifier(epochs=1), n_estimators=2, random_state=0).fit(frame, labels)
    members = [member.predict_proba(frame.to_numpy()) for member in bag.estimators_]
    np.testing.assert_allclose(bag.predict_proba(frame), np.mean(members, axis=0))


@pytest.mark.parametrize("meta", [OneVsOneClassifier, ClassifierChain, SelfTrainingClassifier])
def test_meta_estimators_of_numbers_refuse_texts(meta, make_classifier, reviews):
    """Before skbert sees them: README says so, and this says when it is no longer true."""
    frame = pd.DataFrame({"text": reviews[0]})
    y = np.eye(2, dtype=int)[np.arange(24) % 2] if meta is ClassifierChain else np.arange(24) % 3
    with pytest.raises(ValueError, match="could not convert string to float"):
        meta(make_classifier()).fit(frame, y)


def test_embeddings_of_a_text_column_among_others(make_classifier, reviews):
    """As a transformer inside ColumnTransformer, next to numbers."""
    frame = pd.DataFrame({"text": reviews[0], "stars": np.arange(24.0)})
    labels = list(reviews[1])
    columns = ColumnTransformer(
        [("bert", make_classifier(), "text"), ("number", StandardScaler(), ["stars"])]
    )
    pipeline = make_pipeline(columns, LogisticRegression()).fit(frame, labels)
    assert pipeline[:-1].transform(frame).shape == (24, 33)
    names = columns.fit(frame, labels).get_feature_names_out()
    assert names[0] == "bert__bertclassifier0"
    assert names[-1] == "number__stars"
    assert set(pipeline.predict(frame)) <= {"neg", "pos"}
    # One column by name (a Series) or in a list (a frame of one column): the same texts.
    as_frame = ColumnTransformer([("bert", make_classifier(), ["text"])])
    np.testing.assert_array_equal(as_frame.fit_transform(frame, labels), columns.transform(frame)[:, :32])


@pytest.mark.parametrize("n_columns", [1, 2])
def test_text_columns_passed_through_to_the_classifier(make_classifier, reviews, n_columns):
    texts, labels = map(list, reviews)
    frame = pd.DataFrame({"number": range(24), "text": texts, "other": texts[::-1]})
    chosen = ["text", "other"][:n_columns]
    for transform in ("default", "pandas"):
        choose = ColumnTransformer([("text", "passthrough", chosen)])
        pipeline = make_pipeline(choose.set_output(transform=transform), make_classifier())
        pipeline.fit(frame, labels)
        direct = make_classifier().fit(frame[chosen], labels)
        np.testing.assert_array_equal(pipeline.predict_proba(frame), direct.predict_proba(frame[chosen]))
        assert pipeline[-1].n_features_in_ == n_columns


def test_embeddings_in_a_feature_union(make_classifier, reviews):
    texts, labels = map(list, reviews)
    union = FeatureUnion([("bert", make_classifier()), ("words", TfidfVectorizer())])
    pipeline = make_pipeline(union, LogisticRegression()).fit(texts, labels)
    assert pipeline.predict(texts).shape == (24,)


def test_cross_validation_where_a_label_is_missing_from_a_fold(make_classifier, reviews):
    """As scikit-learn's own classifiers do: each fold is fitted, and the label is not predicted."""
    texts = list(reviews[0])
    labels = np.zeros((24, 3), dtype=int)
    labels[:, 0] = [label == "pos" for label in reviews[1]]
    labels[3, 1] = labels[20, 2] = 1
    with pytest.warns(SkbertWarning, match="never occur"):
        found = cross_validate(
            make_classifier(),
            texts,
            labels,
            cv=3,
            scoring="f1_micro",
            return_estimator=True,
            error_score="raise",
        )
    assert np.isfinite(found["test_score"]).all()
    first, _, last = found["estimator"]  # of folds whose training texts lack the second and the third label
    assert not first.predict(texts)[:, 1].any()
    assert not last.predict(texts)[:, 2].any()


# --- Metadata routing, output containers, representation, tags ---


def test_sample_weight_is_routed_through_a_pipeline(make_classifier, reviews, routing):
    texts, labels = map(list, reviews)
    weights = np.where(np.array(labels) == "pos", 1.0, 1e-3)
    direct = make_classifier(epochs=10).fit(texts, labels, sample_weight=weights)
    requesting = make_classifier(epochs=10).set_fit_request(sample_weight=True)
    pipeline = make_pipeline(FunctionTransformer(), requesting)
    pipeline.fit(texts, labels, sample_weight=weights)
    np.testing.assert_array_equal(pipeline.predict_proba(texts), direct.predict_proba(texts))
    unweighted = make_classifier(epochs=10).fit(texts, labels)
    ignoring = make_pipeline(
        FunctionTransformer(), make_classifier(epochs=10).set_fit_request(sample_weight=False)
    )
    with pytest.raises(TypeError, match="sample_weight"):
        ignoring.fit(texts, labels, sample_weight=weights)
    np.testing.assert_array_equal(
        ignoring.fit(texts, labels).predict_proba(texts), unweighted.predict_proba(texts)
    )
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        make_pipeline(FunctionTransformer(), make_classifier()).fit(texts, labels, sample_weight=weights)


@since_1_8  # before, a search did not ask a pipeline what its score requests
def test_sample_weight_is_routed_through_a_search(make_classifier, reviews, routing):
    texts, labels = map(list, reviews)
    weights = np.where(np.array(labels) == "pos", 1.0, 0.0)
    weights[0] = 1e-6
    estimator = make_classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    search = GridSearchCV(
        make_pipeline(FunctionTransformer(), estimator),
        {"bertclassifier__epochs": [10]},
        cv=[(np.arange(24), np.arange(24))],
        error_score="raise",
    ).fit(texts, labels, sample_weight=weights)
    # All but the whole weight lies on "pos": the fit, its score and the refit must all have seen it.
    assert search.best_score_ > 0.999
    assert (search.predict(texts) == "pos").all()
    direct = make_classifier(epochs=10).fit(texts, labels, sample_weight=weights)
    np.testing.assert_array_equal(search.predict_proba(texts), direct.predict_proba(texts))


def test_requests_are_cloned(make_classifier, routing):
    estimator = make_classifier().set_fit_request(sample_weight=True)
    requests = clone(estimator).get_metadata_routing().fit.requests
    assert requests == {"sample_weight": True, "groups": True, "X_val": None, "y_val": None}


def test_a_stack_takes_groups_if_they_are_not_routed_to_its_estimators(make_classifier, routing, reviews):
    texts, labels = map(list, reviews)
    estimators = [("bert", make_classifier(epochs=1).set_fit_request(groups=False))]
    stack = StackingClassifier(estimators, LogisticRegression(), cv=2)
    groups = np.arange(24) // 4
    scores = cross_val_score(
        stack, texts, labels, cv=GroupKFold(2), params={"groups": groups}, error_score="raise"
    )
    assert len(scores) == 2


def test_score_takes_weights(fitted, reviews):
    texts, labels = map(list, reviews)
    correct = fitted.predict(texts) == np.array(labels)
    weights = np.linspace(0.1, 2, 24)
    assert fitted.score(texts, labels) == pytest.approx(correct.mean())
    assert fitted.score(texts, labels, sample_weight=weights) == pytest.approx(
        np.average(correct, weights=weights)
    )


def test_html_representation(make_classifier, fitted):
    for estimator in (make_classifier(), fitted, make_pipeline(FunctionTransformer(), fitted)):
        html = estimator._repr_html_()
        assert "BertClassifier" in html
        assert "sk-estimator" in html
        assert "learning_rate" in html
    assert "Not fitted" in make_classifier()._repr_html_()
    assert "Not fitted" not in fitted._repr_html_()


def test_set_output_pandas(make_classifier, fitted, reviews):
    texts, labels = map(list, reviews)
    expected = fitted.transform(texts)
    names = [f"bertclassifier{i}" for i in range(32)]
    np.testing.assert_array_equal(fitted.get_feature_names_out(), names)
    estimator = make_classifier().set_output(transform="pandas")
    frame = pd.DataFrame({"text": texts}, index=range(100, 124))
    for table in (
        estimator.fit(frame, labels).transform(frame),
        clone(estimator).fit_transform(frame, labels),
    ):
        assert isinstance(table, pd.DataFrame)
        assert table.columns.tolist() == names
        assert table.index.tolist() == list(range(100, 124))
        np.testing.assert_array_equal(table.to_numpy(), expected)
    # Only `transform` is concerned.
    assert isinstance(estimator.predict_proba(frame), np.ndarray)


def test_global_output_setting(fitted, reviews):
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(fitted.transform(list(reviews[0])), pd.DataFrame)


def test_tags():
    estimator = BertClassifier()
    tags = get_tags(estimator)
    assert is_classifier(estimator)
    assert not is_regressor(estimator)
    assert tags.estimator_type == "classifier"
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array or not tags.input_tags.one_d_array
    assert not tags.input_tags.sparse
    assert not tags.input_tags.allow_nan
    assert tags.target_tags.required
    assert not tags.target_tags.multi_output
    assert tags.classifier_tags.multi_class
    assert tags.classifier_tags.multi_label
    assert not tags.classifier_tags.poor_score
    # Embeddings are of the model's dtype, whatever comes in.
    assert tags.transformer_tags.preserves_dtype == []
    assert tags.requires_fit
    assert not tags.non_deterministic
    assert not tags.no_validation
    assert isinstance(estimator, TransformerMixin)
    assert isinstance(estimator, BaseEstimator)


# --- Saving ---


def test_dump_loads_in_a_new_process_offline(make_classifier, tiny_bert, reviews, tmp_path):
    texts, labels = map(list, reviews)
    # The checkpoint is gone when the model is loaded: the dump must hold everything.
    copy = tmp_path / "checkpoint"
    shutil.copytree(tiny_bert, copy)
    estimator = make_classifier().set_params(model=str(copy))
    pipeline = make_pipeline(FunctionTransformer(), estimator).fit(texts, labels)
    joblib.dump(pipeline, tmp_path / "model.joblib")
    joblib.dump((texts, outputs_of(pipeline[-1], texts)), tmp_path / "expected.joblib")
    shutil.rmtree(copy)
    program = """
        import os, sys
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        import joblib
        import numpy as np
        folder = sys.argv[1]
        pipeline = joblib.load(folder + "/model.joblib")
        texts, expected = joblib.load(folder + "/expected.joblib")
        for method, values in expected.items():
            found = getattr(pipeline[-1], method)(texts)
            assert found.dtype == values.dtype, method
            np.testing.assert_array_equal(found, values, err_msg=method)
        np.testing.assert_array_equal(pipeline.predict(texts), expected["predict"])
        print("equal")
    """
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.stdout == "equal\n", finished.stderr
    assert finished.stderr == ""


def test_dump_of_an_unfitted_estimator(make_classifier, tmp_path):
    joblib.dump(make_classifier(epochs=3), tmp_path / "model.joblib")
    assert joblib.load(tmp_path / "model.joblib").get_params() == (make_classifier(epochs=3).get_params())


def test_loaded_model_can_be_fitted_again(fitted, reviews, tmp_path):
    texts, labels = map(list, reviews)
    joblib.dump(fitted, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    assert_same(outputs_of(fitted, texts), outputs_of(loaded.fit(texts, labels), texts))


# --- Containers of texts ---


# What each kind of container is read as: test_inputs.py. Here, those that scikit-learn passes on.
CONTAINERS = {
    "object array": lambda table: table.to_numpy(),
    "frame": lambda table: table,
    "frame of arrow strings": lambda table: table.convert_dtypes(dtype_backend="pyarrow"),
}


@pytest.mark.parametrize("n_columns", [1, 2])
@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_of_texts(make_classifier, reviews, container, n_columns):
    texts, labels = map(list, reviews)
    columns = [texts, texts[::-1]][:n_columns]
    plain = texts if n_columns == 1 else list(zip(*columns, strict=True))
    X = CONTAINERS[container](pd.DataFrame(dict(zip("ab", columns, strict=False))))
    estimator = make_classifier().fit(X, labels)
    assert estimator.n_features_in_ == n_columns
    expected = make_classifier().fit(plain, labels)
    assert_same(outputs_of(expected, plain), outputs_of(estimator, X))


def test_second_text_of_a_pair_matters(make_classifier):
    pairs = [("the cat", "a dog"), ("the cat", "the cat"), ("a dog", "a dog"), ("a dog", "the cat")]
    estimator = make_classifier(epochs=1).fit(pairs, [0, 1, 1, 0])
    assert len(np.unique(estimator.decision_function(pairs))) == 4


# --- Kinds of labels ---

LABELS = {
    "str": ["b", "a", "c"],
    "int": [3, -1, 20],
    "two ints": [1, 0, 1],
    "bool": [True, False, True],
    "whole floats": [2.0, 1.0, 0.0],
    "accents": ["ä", "a", "z"],
    "long str": ["x" * 200, "y", "z"],
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels(make_classifier, reviews, kind):
    """In which form they are given: test_labels.py."""
    texts, y = list(reviews[0]), LABELS[kind] * 8
    estimator = make_classifier(epochs=1).fit(texts, y)
    expected, codes = np.unique(y, return_inverse=True)
    np.testing.assert_array_equal(estimator.classes_, expected)
    predicted = estimator.predict(texts)
    assert predicted.dtype == estimator.classes_.dtype == expected.dtype
    assert set(predicted) <= set(expected)
    # The same rows in other clothes: the same model.
    reference = make_classifier(epochs=1).fit(texts, codes)
    np.testing.assert_array_equal(reference.predict_proba(texts), estimator.predict_proba(texts))


def test_object_array_of_labels(make_classifier, reviews):
    """Text in an array of objects is fine; scikit-learn refuses numbers in one, and so do we."""
    texts = list(reviews[0])
    y = np.array(["b", "a"] * 12, dtype=object)
    assert make_classifier(epochs=1).fit(texts, y).classes_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="Unknown label type"):
        make_classifier(epochs=1).fit(texts, np.array([1, 0] * 12, dtype=object))


@pytest.mark.parametrize("dtype", ["string", "str", "Int64", "boolean", "int64[pyarrow]"])
def test_nullable_labels(make_classifier, reviews, dtype):
    values = {"string": ["b", "a"], "str": ["b", "a"], "boolean": [True, False]}.get(dtype, [5, 2])
    estimator = make_classifier(epochs=1).fit(list(reviews[0]), pd.Series(values * 12, dtype=dtype))
    assert estimator.classes_.tolist() == sorted(values)
    assert set(estimator.predict(list(reviews[0])).tolist()) <= set(values)


def test_unused_categories_are_no_classes(make_classifier, reviews):
    y = pd.Series(pd.Categorical(["x", "a"] * 12, categories=["x", "never", "a"], ordered=True))
    assert make_classifier(epochs=1).fit(list(reviews[0]), y).classes_.tolist() == ["a", "x"]


def test_many_classes(make_classifier):
    texts = [f"text number {i}" for i in range(300)]
    labels = [f"class {i % 150:03}" for i in range(300)]
    estimator = make_classifier(epochs=1, batch_size=64).fit(texts, labels)
    assert estimator.decision_function(texts[:5]).shape == (5, 150)
    assert estimator.classes_.tolist() == sorted(set(labels))
    np.testing.assert_allclose(
        estimator.predict_proba(texts),
        softmax(estimator.decision_function(texts), axis=1),
        rtol=1e-5,
        atol=1e-7,
    )


# --- Weights ---


@pytest.mark.parametrize("head_init", ["random", "linear_probe"])
def test_integer_weights_are_repetitions(head_init, make_classifier, reviews):
    """Full batch, no dropout, float64: the loss is the same function."""
    texts, labels = np.array(reviews[0]), np.array(reviews[1])
    weights = np.arange(24) % 4
    exact = {"precision": "float64", "dropout": 0.0, "batch_size": 100, "epochs": 5}
    exact |= {"head_init": head_init}
    weighted = make_classifier(**exact).fit(texts, labels, sample_weight=weights)
    repeated = make_classifier(**exact).fit(texts.repeat(weights), labels.repeat(weights))
    np.testing.assert_allclose(
        weighted.decision_function(texts), repeated.decision_function(texts), rtol=1e-6, atol=1e-9
    )


def test_equal_weights_are_no_weights(make_classifier, fitted, reviews):
    texts, labels = map(list, reviews)
    weighted = make_classifier().fit(texts, labels, sample_weight=np.full(24, 1.0))
    assert_same(outputs_of(fitted, texts), outputs_of(weighted, texts))


def test_class_weight_is_that_of_its_frequency(make_classifier, reviews):
    """From a head that knows nothing: the same fit, and the logarithms of the weights on top."""
    texts, labels = list(reviews[0]), np.array(reviews[1])
    settings = {"head_init": "random", "precision": "float64"}
    plain = make_classifier(**settings).fit(texts, labels)
    by_class = make_classifier(class_weight={"neg": 4.0, "pos": 1.0}, **settings).fit(texts, labels)
    expected = plain.decision_function(texts) - np.log(4.0)
    np.testing.assert_allclose(by_class.decision_function(texts), expected, atol=1e-6)
    assert by_class.loss_curve_ == pytest.approx(plain.loss_curve_, abs=1e-6)
    unlisted = make_classifier(class_weight={"neg": 4.0}, **settings).fit(texts, labels)
    assert_same(outputs_of(by_class, texts), outputs_of(unlisted, texts))


def test_others_than_a_class_that_weighs_nothing_are_as_if_its_texts_were_absent(make_classifier, reviews):
    texts, labels = list(reviews[0]), np.array(["a", "b", "c"] * 8)
    without = make_classifier(class_weight={"a": 0.0}).fit(texts, labels)
    absent = make_classifier().fit(texts, labels, sample_weight=(labels != "a").astype(float))
    (a, *others), (_, *expected) = without.predict_proba(texts).T, absent.predict_proba(texts).T
    assert a.max() < 1e-7
    np.testing.assert_allclose(others, expected / np.sum(expected, axis=0), rtol=1e-3)


def test_balanced_is_inverse_frequency(make_classifier, reviews):
    texts, labels = list(reviews[0])[:20], np.array(["a"] * 15 + ["b"] * 5)
    balanced = make_classifier(class_weight="balanced").fit(texts, labels)
    by_hand = make_classifier(class_weight={"a": 20 / 30, "b": 20 / 10}).fit(texts, labels)
    np.testing.assert_allclose(
        balanced.decision_function(texts), by_hand.decision_function(texts), rtol=1e-4, atol=1e-5
    )


def test_heavy_class_wins(make_classifier):
    """The same text under two labels: the weight decides."""
    texts, labels = ["good", "good"] * 12, ["a", "b"] * 12
    for heavy in ("a", "b"):
        estimator = make_classifier(epochs=15, class_weight={heavy: 50.0}).fit(texts, labels)
        assert estimator.predict(["good"])[0] == heavy
        probability = estimator.predict_proba(["good"])[0, estimator.classes_ == heavy]
        assert probability > 0.8


def test_balanced_counts_weights_of_texts(make_classifier, reviews):
    texts, labels = list(reviews[0]), np.array(reviews[1])
    weights = np.where(labels == "neg", 3.0, 1.0) + np.arange(24) % 3
    of_classes = {name: weights.sum() / (2 * weights[labels == name].sum()) for name in ("neg", "pos")}
    balanced = make_classifier(class_weight="balanced").fit(texts, labels, sample_weight=weights)
    by_hand = make_classifier(class_weight=of_classes).fit(texts, labels, sample_weight=weights)
    np.testing.assert_allclose(
        balanced.decision_function(texts), by_hand.decision_function(texts), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("form", [list, tuple, np.array, pd.Series, lambda w: array.array("d", w), pa.array])
def test_containers_of_weights(make_classifier, reviews, form):
    texts, labels = map(list, reviews)
    weights = [1.0 + i % 3 for i in range(24)]
    reference = make_classifier().fit(texts, labels, sample_weight=weights)
    other = make_classifier().fit(texts, labels, sample_weight=form(weights))
    assert_same(outputs_of(reference, texts), outputs_of(other, texts))


def test_grid_search_over_what_trains(make_classifier, reviews):
    texts, labels = map(list, reviews)
    grid = [
        {"freeze": [0, 1, "embeddings", "encoder", "gradual"]},
        {"lora": [None, 2], "layer_decay": [0.5, 1.0]},
        {"long_text": ["head", "head_tail", "windows"], "max_length": [8]},
    ]
    long = [f"{text} {text}" for text in texts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        search = GridSearchCV(make_classifier(epochs=1), grid, cv=2, error_score="raise").fit(long, labels)
    assert len(search.cv_results_["mean_test_score"]) == 12
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    for name, value in search.best_params_.items():
        assert search.best_estimator_.get_params()[name] == value
