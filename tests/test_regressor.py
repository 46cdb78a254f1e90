"""`BertRegressor`: scikit-learn's checks, and what differs from `BertClassifier`."""

from __future__ import annotations

import json
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from rows_as_text import RowsAsTextRegressor, run_check
from sklearn.base import clone, is_regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import StackingRegressor, VotingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from skbert import (
    BertClassifier,
    BertRegressor,
    CheckpointError,
    CollapseWarning,
    InputError,
    NonFiniteOutputError,
    PersistenceError,
    SkbertError,
    SkbertWarning,
)

STRICT = RowsAsTextRegressor(
    "tiny",
    max_length=128,
    head_init="random",
    dropout=0.0,
    epochs=22,
    batch_size=1000,
    learning_rate=1e-2,
    random_state=0,
    device="cpu",
    precision="float64",
)


@parametrize_with_checks([STRICT])
def test_scikit_learn_checks(estimator, check, tiny_bert):
    run_check(check, estimator, tiny_bert)


def test_generator_yields_all_its_checks():
    names = {check.func.__name__ for _, check in estimator_checks_generator(STRICT)}
    assert len(names) >= 55
    assert {
        "check_regressors_train",
        "check_regressor_multioutput",
        "check_regressors_no_decision_function",
        "check_sample_weight_equivalence_on_dense_data",
        "check_methods_subset_invariance",
    } <= names


# On texts


@pytest.fixture(scope="module")
def make(tiny_bert):
    def make(**parameters):
        quick = {"max_length": 32, "epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "random_state": 0}
        quick |= {"model": tiny_bert, "device": "cpu", "precision": "float32"}
        return BertRegressor(**quick | parameters)

    return make


@pytest.fixture(scope="module")
def stars(reviews):
    """Texts and numbers from 1 to 5, the bad ones lower."""
    texts, labels = reviews
    return list(texts), 1 + 3 * (np.array(labels) == "pos") + np.arange(24) % 4 / 4


@pytest.fixture(scope="module")
def fitted(make, stars):
    return make(epochs=20).fit(*stars)


def test_it_learns_numbers(fitted, stars):
    texts, y = stars
    predicted = fitted.predict(texts)
    assert predicted.shape == (24,)
    assert predicted.dtype == np.float64
    assert fitted.score(texts, y) == r2_score(y, predicted) > 0.8
    assert fitted.loss_curve_[-1] < 0.3 < fitted.loss_curve_[0]
    assert is_regressor(fitted)
    assert not hasattr(fitted, "predict_proba")
    assert not hasattr(fitted, "classes_")
    assert fitted.target_type_ == "continuous"
    np.testing.assert_allclose([fitted.target_mean_[0], fitted.target_scale_[0]], [y.mean(), y.std()])


@pytest.mark.parametrize(("unit", "zero"), [(1e-9, 0.0), (1e9, 0.0), (1.0, 1e6), (-100.0, 7.0)])
def test_the_unit_of_y_changes_nothing(make, fitted, stars, unit, zero):
    texts, y = stars
    other = make(epochs=20).fit(texts, y * unit + zero)
    np.testing.assert_allclose(
        (other.predict(texts) - zero) / unit, fitted.predict(texts), rtol=0.02, atol=0.02
    )


def test_several_numbers(make, stars):
    texts, y = stars
    Y = np.column_stack([y, -3 * y + 2, np.full(24, 8.0)])
    regressor = make(epochs=20).fit(texts, Y)
    predicted = regressor.predict(texts)
    assert predicted.shape == (24, 3)
    assert regressor.target_type_ == "continuous-multioutput"
    assert r2_score(Y[:, :2], predicted[:, :2], multioutput="raw_values").min() > 0.8
    np.testing.assert_allclose(predicted[:, 2], 8.0, atol=0.5)
    assert make().fit(texts, y[:, None]).predict(texts).shape == (24, 1)


def test_pairs_and_frames(make, stars):
    texts, y = stars
    frame = pd.DataFrame({"question": texts, "answer": texts[::-1]})
    regressor = make().fit(frame, pd.Series(y))
    assert regressor.n_features_in_ == 2
    np.testing.assert_array_equal(
        regressor.predict(frame), make().fit(frame.to_numpy(), y).predict(frame.to_numpy())
    )
    with pytest.raises(InputError, match="X has 1 features, but BertRegressor is expecting 2"):
        regressor.predict(texts)


@pytest.mark.parametrize("precision", ["bfloat16", "float64", "int8"])
def test_precisions(fitted, stars, precision):
    other = pickle.loads(pickle.dumps(fitted)).set_params(precision=precision)
    assert r2_score(fitted.predict(stars[0]), other.predict(stars[0])) > 0.99


@pytest.mark.parametrize(
    "parameters",
    [
        {"lora": 2},
        {"freeze": "encoder"},
        {"freeze": 1},
        {"head_layers": 1},
        {"long_text": "windows", "max_length": 8, "epochs": 3},
        {"gradient_checkpointing": True},
        {"layer_decay": 0.5},
        {"head_init": "random"},
        {"pooling": "max"},
    ],
    ids=str,
)
def test_parameters_mean_what_they_do_for_a_classifier(make, stars, parameters):
    plain, other = (make(**given).fit(*stars) for given in ({}, parameters))
    assert np.isfinite(other.predict(stars[0])).all()
    same = (other.predict(stars[0]) == plain.predict(stars[0])).all()
    assert same == ("gradient_checkpointing" in parameters)


def test_weights_of_texts(make, stars):
    """In one batch without dropout, a weight of two is the text given twice, and a weight of zero no text."""
    texts, y = stars
    weights = np.array([2.0, 1.0, 0.0] * 8)
    rows = np.repeat(np.arange(24), weights.astype(int))
    exact = make(batch_size=100, dropout=0.0, precision="float64", epochs=5, head_init="linear_probe")
    weighted = clone(exact).fit(texts, y, sample_weight=weights)
    repeated = clone(exact).fit([texts[row] for row in rows], y[rows])
    np.testing.assert_allclose(weighted.predict(texts), repeated.predict(texts), rtol=1e-6)
    np.testing.assert_allclose(weighted.target_scale_, repeated.target_scale_)
    with pytest.raises(InputError, match="is -1 at row 3"):
        make().fit(texts, y, sample_weight=[1, 1, 1, -1, *[1] * 20])
    with pytest.raises(InputError, match="All sample weights are zero"):
        make().fit(texts, y, sample_weight=np.zeros(24))


@pytest.mark.parametrize("bad", [None, ["good"] * 24, [1.0] * 23, [np.nan] * 24])
def test_a_failed_fit_loses_nothing(fitted, stars, bad):
    before, predicted = dict(vars(fitted)), fitted.predict(stars[0])
    with pytest.raises(ValueError, match="y") as caught:
        fitted.fit(stars[0], bad)
    assert isinstance(caught.value, SkbertError)
    assert vars(fitted) == before
    np.testing.assert_array_equal(fitted.predict(stars[0]), predicted)


def test_unfitted(make, stars):
    for method in ("predict", "transform", "score"):
        with pytest.raises(NotFittedError):
            getattr(make(), method)(*stars[: 1 + (method == "score")])


def test_numbers_that_are_all_the_same(make, stars):
    assert abs(make().fit(stars[0], [7.0] * 24).predict(stars[0]) - 7).max() < 0.5


def test_a_fit_that_learns_nothing_says_so(make, stars):
    with pytest.warns(
        CollapseWarning, match=r"predicts about 2\.\d+ for all 24 training texts.*the mean alone"
    ):
        make(learning_rate=1e-9, head_init="random", dropout=0.0, freeze="encoder").fit(*stars)


def test_a_fit_that_diverges_says_so(make, stars):
    """Its predictions differ, and lie far from all numbers that it has seen."""
    with pytest.warns(
        SkbertWarning, match="it predicts them worse than their mean does. Lower learning_rate"
    ):
        make(learning_rate=30.0, freeze="encoder", epochs=3, weight_decay=0.0, warmup_ratio=0.0).fit(*stars)


def test_how_much_worse_is_in_the_variance_of_the_last_fit(make, stars):
    """A model that continues keeps its scale, which may be another than that of the new numbers."""
    texts, wide = stars[0], np.repeat([100.0, -100, -50, 50, 0, 10], 4)
    model = make(epochs=20, learning_rate=5e-3).fit(texts, wide)
    other = wide[::-1] / 10
    with pytest.warns(SkbertWarning, match=r"is \S+ times the variance of y: it predicts") as caught:
        model.set_params(warm_start=True, epochs=1, learning_rate=1e-6).fit(texts, other)
    (said,) = (str(w.message) for w in caught if "variance" in str(w.message))
    ratio = 1 - model.score(texts, other)
    assert ratio > 10
    assert float(said.split(" is ")[1].split()[0]) == pytest.approx(ratio, rel=1e-2)


def test_numbers_that_do_not_count_are_no_measure(make, stars):
    """Where all that count are the same, no variance is there to compare with."""
    texts, weights = stars[0], np.r_[np.ones(12), np.zeros(12)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(head_init="random").fit(texts, np.r_[np.ones(12), np.arange(12.0)], sample_weight=weights)


def test_the_probe_is_a_ridge_regression(make, stars):
    """With a rate of nothing the fit ends where it starts: with Ridge on the frozen embeddings."""
    texts, y = stars
    start = make(head_init="linear_probe", learning_rate=1e-30, weight_decay=0.0, epochs=1).fit(texts, y)
    embeddings = start.transform(texts).astype(float)
    norm = np.linalg.norm(embeddings, axis=1).mean()
    ridge = Ridge(alpha=24 / 3).fit(embeddings / norm, y)
    np.testing.assert_allclose(start.predict(texts), ridge.predict(embeddings / norm), atol=1e-4)


def test_the_probe_where_embeddings_tell_something(fitted):
    assert fitted.head_init_ == "linear_probe"


# Going on


def test_warm_start_keeps_mean_and_scale(make, stars):
    texts, y = stars
    regressor = make(warm_start=True).fit(texts, y)
    first = regressor.target_mean_, regressor.target_scale_
    regressor.fit(texts[:8], y[:8] + 1)
    assert (regressor.target_mean_, regressor.target_scale_) == first
    with pytest.raises(InputError, match="one number per text"):
        regressor.fit(texts, np.column_stack([y, y]))


def test_partial_fit(make, stars):
    texts, y = stars
    regressor = make()
    for _ in range(15):
        regressor.partial_fit(texts, y)
    assert regressor.score(texts, y) > 0.7
    assert regressor.n_iter_ == 15
    with pytest.raises(InputError, match="does not support early_stopping"):
        make(early_stopping=True).partial_fit(texts, y)


def test_columns_in_another_order_are_refused(make, stars, tmp_path):
    texts, y = stars
    table = pd.DataFrame({"stars": y, "words": [float(len(text.split())) for text in texts]})
    swapped = table[["words", "stars"]]
    regressor = make(warm_start=True).fit(texts, table)
    assert regressor.target_names_.tolist() == ["stars", "words"]
    regressor.save(tmp_path / "model")
    for known in (regressor, BertRegressor.load(tmp_path / "model"), pickle.loads(pickle.dumps(regressor))):
        for call in (known.fit, known.partial_fit, known.score):
            with pytest.raises(InputError, match=r"y has the columns .*words.*stars.* but those of the fit"):
                call(texts, swapped)
    assert regressor.score(texts, table) == r2_score(table, regressor.predict(texts))
    assert regressor.partial_fit(texts, table.to_numpy()).target_names_.tolist() == ["stars", "words"]
    assert make().fit(texts, y).target_names_ is None
    years = table.set_axis([2024, 2025], axis=1)
    numbered = make().fit(texts, years)
    assert numbered.target_names_.tolist() == [2024, 2025]
    with pytest.raises(InputError, match=r"those of the fit are \[2024, 2025\]"):
        numbered.score(texts, years[[2025, 2024]])


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (np.ma.array(np.ones(24), mask=[True] + [False] * 23), "y contains NaN .* at row 0"),
        (["4.5"] * 24, "y has '4.5' "),
        (np.ones(24).astype("m8[D]"), "y has '1 days' "),
        (np.ones(23), r"inconsistent numbers of samples: \[24, 23\]"),
    ],
)
def test_score_refuses_what_fit_refuses(make, stars, y, said):
    texts, numbers = stars
    regressor = make(epochs=1).fit(texts, numbers)
    with pytest.raises(InputError, match=said):
        regressor.fit(texts, y)
    with pytest.raises(InputError, match=said):
        regressor.score(texts, y)
    hidden = np.ma.array(np.ones(24), mask=[True] + [False] * 23)
    with pytest.raises(InputError, match="sample_weight is masked at row 0"):
        regressor.score(texts, numbers, hidden)
    weights = np.arange(24.0)  # one is zero
    expected = r2_score(numbers, regressor.predict(texts), sample_weight=weights)
    assert regressor.score(texts, numbers, weights) == expected


def test_score_takes_a_column_of_numbers_and_no_other_table(fitted, stars):
    texts, y = stars
    assert fitted.score(texts, y[:, None]) == fitted.score(texts, y)
    with pytest.raises(InputError, match=r"y has the shape \(24, 2\). Expected one number per text"):
        fitted.score(texts, np.column_stack([y, y]))


def test_numbers_of_weight_zero_are_not_there(make, stars):
    texts, y = stars
    weights = (np.arange(24) != 3).astype(float)
    far = np.where(weights == 0, 1e300, y)
    left_out = make().fit(np.delete(texts, 3).tolist(), np.delete(y, 3))
    assert np.array_equal(make().fit(texts, far, weights).predict(texts), left_out.predict(texts))
    with pytest.raises(InputError, match="y is 5 for all 23 texts of the first call to partial_fit"):
        make().partial_fit(texts, np.where(weights == 0, 900, 5), weights)
    with pytest.raises(InputError, match=r"y is 0\.3 for all 24 texts"):  # equal up to rounding
        make().partial_fit(texts, [0.3, 0.1 + 0.2] * 12)


def test_the_first_call_of_partial_fit_fixes_the_scale(make, stars):
    texts, y = stars
    for some, numbers in ((texts[:1], y[:1]), (texts, np.full(24, 7.0))):
        with pytest.raises(InputError, match=r"y is \S+ for all \d+ texts of the first call to partial_fit"):
            make().partial_fit(some, numbers)
    with pytest.raises(InputError, match="in column 1 for all 24 texts"):
        make().partial_fit(texts, np.column_stack([y, np.ones(24)]))
    regressor = make().partial_fit(texts, y)
    assert regressor.partial_fit(texts[:1], y[:1]).target_scale_ == pytest.approx(y.std())


def test_an_interrupted_fit_goes_on_with_the_same_bits(make, stars, tmp_path):
    class Stop(BaseException):
        pass

    texts, y = stars
    whole = make(epochs=4).fit(texts, y)
    seen = []

    def scoring(estimator, X, y_val):
        seen.append(y_val)
        if len(seen) == 4:
            raise Stop
        return 0.0

    interrupted = make(epochs=4, scoring=scoring, checkpoint=tmp_path / "unfinished")
    with pytest.raises(Stop):
        interrupted.fit(texts, y, X_val=texts, y_val=y)
    with pytest.raises(InputError, match="y differs"):
        interrupted.fit(texts, y + 1, X_val=texts, y_val=y)
    interrupted.fit(texts, y, X_val=texts, y_val=y)
    # The first epoch is the best of equal ones.
    np.testing.assert_array_equal(interrupted.loss_curve_, whole.loss_curve_)
    assert seen[0].tolist() == y.tolist()


# Validation


def test_early_stopping_by_r2(make, stars):
    texts, y = stars
    regressor = make(epochs=30, learning_rate=2e-2, early_stopping=True, validation_fraction=0.25).fit(
        texts, y
    )
    assert len(regressor.validation_scores_) == regressor.n_iter_
    assert regressor.best_validation_score_ == max(regressor.validation_scores_)
    watched = make(epochs=4).fit(texts, y, X_val=texts[:8], y_val=y[:8])
    assert watched.score(texts[:8], y[:8]) == watched.best_validation_score_


def test_scorers_see_the_units_of_y(make, stars):
    texts, y = stars
    regressor = make(scoring="neg_mean_absolute_error").fit(texts, 100 * y, X_val=texts, y_val=100 * y)
    best = -mean_absolute_error(100 * y, regressor.predict(texts))
    assert regressor.best_validation_score_ == pytest.approx(best)
    with pytest.raises(InputError, match="Use a scorer for numbers"):
        make(scoring="f1_macro").fit(texts, y, X_val=texts, y_val=y)


def test_validation_numbers_that_are_all_the_same(make, stars):
    texts, y = stars
    with pytest.warns(SkbertWarning, match="The numbers of 3 validation texts are all the same"):
        regressor = make(epochs=4).fit(texts, y, X_val=texts[:3], y_val=[2.0, 2.0, 2.0])
    best = -((regressor.predict(texts[:3]) - 2) ** 2).mean()
    assert regressor.best_validation_score_ == pytest.approx(best, rel=1e-4)
    with pytest.raises(InputError, match="scoring='r2' says nothing about numbers that are all the same"):
        make(scoring="r2").fit(texts, y, X_val=texts[:3], y_val=[2.0, 2.0, 2.0])
    with pytest.raises(InputError, match=r"There is 1 validation text, and R² needs two. Raise"):
        make(early_stopping=True).fit(texts[:10], y[:10])


@pytest.mark.parametrize(
    ("scoring", "match"),
    [
        (
            "v_measure_score",
            "compares groups, not numbers. Use a scorer for numbers, such as 'neg_mean_squared_error'",
        ),
        ("neg_mean_poisson_deviance", "undefined for negative predictions"),
        ("roc_auc", "Use a scorer for numbers"),
    ],
)
def test_scorers_that_tell_nothing_of_numbers(make, stars, scoring, match):
    with pytest.raises(InputError, match=match):
        make(scoring=scoring, early_stopping=True, validation_fraction=0.5).fit(*stars)


def test_validation_numbers_are_checked(make, stars):
    texts, y = stars
    with pytest.raises(InputError, match="y_val contains NaN"):
        make().fit(texts, y, X_val=texts[:2], y_val=[1.0, None])
    with pytest.raises(InputError, match="Expected one number per text"):
        make().fit(texts, y, X_val=texts[:2], y_val=[[1.0], [2.0]])
    with pytest.raises(InputError, match="X_val was given without y_val"):  # as other libraries take it
        make().fit(texts, y, X_val=(pd.Series(texts[:2]), pd.Series(y[:2])))
    with pytest.raises(InputError, match="X_val was given without y_val"):
        make().fit(texts, y, X_val=texts)


# scikit-learn around it


def test_in_a_search_a_pipeline_and_an_ensemble(make, stars):
    texts, y = stars
    search = GridSearchCV(make_pipeline(make(epochs=1)), {"bertregressor__epochs": [1, 8]}, cv=2).fit(
        texts, y
    )
    assert search.best_params_ == {"bertregressor__epochs": 8}
    assert cross_val_predict(make(), texts, y, cv=2).shape == (24,)
    votes = VotingRegressor([("a", make()), ("b", make(random_state=1))]).fit(texts, y)
    assert votes.predict(texts).shape == (24,)
    stack = StackingRegressor([("a", make())], cv=2).fit(texts, y)
    assert stack.predict(texts).shape == (24,)
    of_logarithms = TransformedTargetRegressor(make(), func=np.log, inverse_func=np.exp).fit(texts, y)
    expected = np.exp(make().fit(texts, np.log(y)).predict(texts))
    np.testing.assert_allclose(of_logarithms.predict(texts), expected)


def test_embeddings_have_names(fitted, stars):
    assert fitted.transform(stars[0]).shape == (24, 32)
    assert fitted.get_feature_names_out()[0] == "bertregressor0"


def test_two_fits_are_equal(make, fitted, stars):
    again = make(epochs=20).fit(*stars)
    np.testing.assert_array_equal(again.predict(stars[0]), fitted.predict(stars[0]))


# Files


@pytest.mark.parametrize("columns", [None, 2])
def test_files(make, stars, tmp_path, columns):
    texts, y = stars
    regressor = make(lora=2).fit(texts, y if columns is None else np.column_stack([y] * columns))
    expected = regressor.predict(texts)
    regressor.save(tmp_path / "model")
    joblib.dump(regressor, tmp_path / "model.joblib")
    regressor.save(tmp_path / "changes", only_changes=True)
    for again in (
        BertRegressor.load(tmp_path / "model"),
        BertRegressor.load(tmp_path / "changes", checkpoint=regressor.model),
        joblib.load(tmp_path / "model.joblib"),
        pickle.loads(pickle.dumps(regressor)),
    ):
        np.testing.assert_array_equal(again.predict(texts), expected)
        assert again.target_type_ == regressor.target_type_
    with pytest.raises(PersistenceError, match="it holds a 'BertRegressor', not a BertClassifier"):
        BertClassifier.load(tmp_path / "model")


@pytest.mark.parametrize("name", ["target_mean_", "target_scale_"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(fitted, stars, tmp_path, name, value):
    odd = pickle.loads(pickle.dumps(fitted))
    setattr(odd, name, np.array([value]))
    with pytest.raises(PersistenceError, match="its fitted attributes are not those of a fit"):
        odd.save(tmp_path / "model")
    with pytest.raises(NonFiniteOutputError, match="is not finite in the units of y"):
        odd.predict(stars[0])


@pytest.mark.parametrize(
    ("unit", "zero", "remedy"),
    [
        (1.0, 1.7e9, "on y minus a constant"),
        (1e39, 0.0, "on y in another unit"),
        (1e-46, 0.0, "on y in another unit"),
    ],
)
def test_numbers_that_a_head_of_transformers_cannot_hold(make, stars, tmp_path, unit, zero, remedy):
    texts, y = stars
    regressor = make(epochs=1, pooling="cls").fit(texts, y * unit + zero)
    message = rf"The head of transformers cannot hold numbers .* in float32. Fit {remedy}, or with precision"
    with pytest.raises(PersistenceError, match=message):
        regressor.save_pretrained(tmp_path / "folder")
    make(epochs=1, pooling="cls").fit(texts, y).save_pretrained(tmp_path / "remedied")
    assert not (tmp_path / "folder" / "config.json").exists()
    regressor.save(tmp_path / "model")
    np.testing.assert_array_equal(
        BertRegressor.load(tmp_path / "model").predict(texts), regressor.predict(texts)
    )


def test_one_label_that_a_text_may_have_is_no_number(make, stars, tmp_path):
    make(pooling="cls", epochs=1).fit(*stars).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for problem, taken in ((None, True), ("multi_label_classification", False)):
        (tmp_path / "config.json").write_text(json.dumps(config | {"problem_type": problem}))
        if taken:
            assert BertRegressor.from_pretrained(tmp_path).target_type_ == "continuous"
            continue
        for estimator in (BertRegressor, BertClassifier):
            with pytest.raises(CheckpointError, match=r"gives one logit \(problem_type='multi_label"):
                estimator.from_pretrained(tmp_path)


def test_skops(fitted, stars, tmp_path):
    import skops.io

    skops.io.dump(fitted, tmp_path / "model.skops")
    again = skops.io.load(tmp_path / "model.skops", trusted=["skbert.regressor.BertRegressor"])
    np.testing.assert_array_equal(again.predict(stars[0]), fitted.predict(stars[0]))


def test_folders_of_transformers_keep_the_names_of_columns(make, stars, tmp_path):
    texts, y = stars
    table = pd.DataFrame({"stars": y, "words": -y})
    regressor = make(pooling="cls").fit(texts, table)
    regressor.save_pretrained(tmp_path)
    again = BertRegressor.from_pretrained(tmp_path, device="cpu", precision="float32")
    assert again.target_names_.tolist() == ["stars", "words"]
    assert again.score(texts, table) == pytest.approx(regressor.score(texts, table), abs=1e-4)
    with pytest.raises(InputError, match="y has the columns"):
        again.score(texts, table[["words", "stars"]])


def test_numbers_that_joblib_has_mapped(make, stars, tmp_path):
    texts, y = stars
    joblib.dump(make(pooling="cls").fit(texts, y), tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped.save_pretrained(tmp_path / "folder")


def test_a_file_without_the_scale_is_refused(fitted, tmp_path):
    odd = pickle.loads(pickle.dumps(fitted))
    odd.target_scale_ = np.ones(2)
    with pytest.raises(PersistenceError, match="its fitted attributes are not those of a fit"):
        odd.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_folders_of_transformers(make, stars, tiny_checkpoints, tmp_path, family, columns):
    import torch
    import transformers

    texts, y = stars
    y = 100 * y if columns is None else np.column_stack([y] * columns)
    regressor = make(model=tiny_checkpoints(family), pooling="cls").fit(texts, y)
    expected = regressor.predict(texts)
    regressor.save_pretrained(tmp_path / "folder")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "folder")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert model.config.problem_type == "regression"
    with torch.inference_mode():
        numbers = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(numbers.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5 * abs(y).max())
    again = BertRegressor.from_pretrained(tmp_path / "folder", device="cpu", precision="float32")
    np.testing.assert_allclose(again.predict(texts), expected, rtol=1e-5, atol=1e-5 * abs(y).max())
    assert again.target_type_ == regressor.target_type_
    assert again.target_names_ is None
    with pytest.raises(CheckpointError, match=r"is read by BertRegressor.from_pretrained"):
        BertClassifier.from_pretrained(tmp_path / "folder")


def test_a_classifier_is_no_regression_model(make_classifier, reviews, tmp_path):
    make_classifier(pooling="cls").fit(*map(list, reviews)).save_pretrained(tmp_path / "folder")
    with pytest.raises(
        CheckpointError, match=r"Expected a regression model; .* BertClassifier.from_pretrained"
    ):
        BertRegressor.from_pretrained(tmp_path / "folder")


def test_the_encoder_alone(fitted, stars, tmp_path):
    fitted.save_encoder(tmp_path / "encoder")
    classifier = BertClassifier(tmp_path / "encoder", epochs=1, max_length=32).fit(stars[0], ["a", "b"] * 12)
    assert classifier.transform(stars[0]).shape == (24, 32)
