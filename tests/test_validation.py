"""Held-out texts, early stopping, and the best epoch's weights."""

import threading

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.metrics import accuracy_score, f1_score, get_scorer_names, log_loss, make_scorer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from skbert import InputError, SkbertWarning, preparing


def noisy_fit(make_classifier, reviews, **parameters):
    """A fit whose validation labels contradict the training labels more and more: it soon gets worse."""
    texts, y = reviews
    contrary = ["pos" if label == "neg" else "neg" for label in y]
    settings = {"epochs": 12, "scoring": "neg_log_loss"} | parameters
    return make_classifier(**settings).fit(texts, y, X_val=texts, y_val=contrary), contrary


def test_early_stopping_ends_the_fit_and_restores_the_best_epoch(make_classifier, reviews):
    classifier, contrary = noisy_fit(make_classifier, reviews, early_stopping=True, n_iter_no_change=3)
    scores = classifier.validation_scores_
    best = int(np.argmax(scores))
    assert len(scores) == classifier.n_iter_ == best + 4 < 12
    assert classifier.best_validation_score_ == max(scores)
    restored = -log_loss(contrary, classifier.predict_proba(reviews[0]))
    assert restored == pytest.approx(max(scores), abs=1e-6)
    assert restored != pytest.approx(scores[-1], abs=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_best_epoch_comes_back_without_early_stopping_too(precision, make_classifier, reviews):
    classifier, contrary = noisy_fit(make_classifier, reviews, precision=precision)
    assert classifier.n_iter_ == len(classifier.validation_scores_) == 12
    restored = -log_loss(contrary, classifier.predict_proba(reviews[0]))
    assert restored == pytest.approx(max(classifier.validation_scores_), abs=1e-5)


def test_watching_changes_nothing_where_the_last_epoch_is_best(make_classifier, reviews):
    texts, y = reviews
    plain = make_classifier(epochs=4).fit(texts, y)
    watched = make_classifier(epochs=4, scoring="neg_log_loss").fit(texts, y, X_val=texts, y_val=y)
    assert watched.validation_scores_.index(max(watched.validation_scores_)) == 3
    # Texts that are validated on are in the vocabulary of both fits, so even the bits are the same.
    assert np.array_equal(plain.predict_proba(texts), watched.predict_proba(texts))


@pytest.mark.parametrize(
    ("scores", "n_iter", "chosen"),
    [([1, 2, 2, 2, 3], 4, 4), ([1, 2, 1, 2, 3], 4, 4), ([2, 1, 1, 3], 3, 1), ([1, 2, 1, 1, 3], 4, 2)],
)
def test_the_best_epoch_comes_back_and_of_equal_ones_the_last(
    scores, n_iter, chosen, make_classifier, reviews
):
    """And of equal ones none is better than the first, so that the patience ends."""
    texts, y = map(list, reviews)
    settings = {"epochs": 5, "early_stopping": True, "n_iter_no_change": 2}
    told, seen = iter([0, *scores]), []

    def score(estimator, X, y):
        seen.append(estimator.decision_function(X))
        return next(told)

    classifier = make_classifier(scoring=score, **settings).fit(texts, y, X_val=texts, y_val=y)
    assert classifier.n_iter_ == n_iter
    np.testing.assert_allclose(classifier.decision_function(texts), seen[chosen], atol=1e-6)


def test_layers_that_thaw_are_not_stopped_early(make_classifier, reviews):
    texts, y = reviews
    settings = {"epochs": 5, "early_stopping": True, "n_iter_no_change": 1, "freeze": "gradual"}
    told = iter([0, 3, 2, 1, 4, 3])
    classifier = make_classifier(scoring=lambda *_: next(told), **settings)
    classifier.fit(texts, y, X_val=texts, y_val=y)
    assert classifier.validation_scores_ == [3, 2, 1, 4, 3]
    assert classifier.best_validation_score_ == 4


def test_history(make_classifier, reviews):
    texts, y = reviews
    classifier = make_classifier().fit(texts, y, X_val=texts[:6], y_val=y[:6])
    frame = pd.DataFrame(classifier.history_)
    assert frame.columns.tolist() == ["epoch", "loss", "validation_score"]
    assert frame["loss"].tolist() == classifier.loss_curve_
    assert frame["validation_score"].tolist() == classifier.validation_scores_
    plain = make_classifier().fit(texts, y)
    assert plain.validation_scores_ is plain.best_validation_score_ is None
    assert list(plain.history_[0]) == ["epoch", "loss"]


def test_a_holdout_is_not_trained_on(make_classifier, reviews):
    texts, y = reviews
    classifier = make_classifier(early_stopping=True, validation_fraction=0.25, epochs=3).fit(texts, y)
    assert len(classifier.validation_scores_) == classifier.n_iter_
    # Accuracy on six texts moves in sixths.
    assert all((score * 6) == pytest.approx(round(score * 6)) for score in classifier.validation_scores_)


def test_scores_are_those_of_the_estimator(make_classifier, reviews):
    texts, y = reviews
    X_val, y_val = ["good team", "bad law", "happy dog", "sad rain"], ["pos", "neg", "pos", "neg"]
    classifier = make_classifier(epochs=1).fit(texts, y, X_val=X_val, y_val=y_val)
    assert classifier.validation_scores_ == [classifier.score(X_val, y_val)]


@pytest.mark.parametrize("scoring", ["accuracy", "roc_auc", "f1_macro", "neg_log_loss"])
def test_scorers_by_name(scoring, make_classifier, reviews):
    texts, y = reviews
    classifier = make_classifier(epochs=1, scoring=scoring).fit(texts, y, X_val=texts, y_val=y)
    expected = sklearn.metrics.get_scorer(scoring)(classifier, list(texts), list(y))
    assert classifier.validation_scores_ == [pytest.approx(expected)]


def test_several_labels_are_scored_by_f1(make_classifier, reviews):
    """All labels of a text are seldom right."""
    texts, labels = map(list, reviews)
    Y = np.column_stack([np.array(labels) == "pos", np.arange(24) % 3 == 0, np.arange(24) % 5 == 0])
    Y = Y.astype(int)
    classifier = make_classifier(epochs=3).fit(texts, Y, X_val=texts[:9], y_val=Y[:9])
    best = f1_score(Y[:9], classifier.predict(texts[:9]), average="micro")
    assert classifier.best_validation_score_ == pytest.approx(best)


def test_texts_without_any_label_are_scored_by_accuracy(make_classifier, reviews):
    texts, Y = list(reviews[0]), np.eye(2, dtype=int)[[0, 1] * 12]
    with pytest.warns(SkbertWarning, match="None of 4 validation texts has a label.* scored by accuracy"):
        classifier = make_classifier().fit(texts, Y, X_val=texts[:4], y_val=np.zeros((4, 2), int))
    assert classifier.best_validation_score_ == classifier.score(texts[:4], np.zeros((4, 2), int))


def test_callable_scorers(make_classifier, reviews):
    texts, y = reviews
    for scoring in (lambda estimator, X, y: 0.5, make_scorer(lambda a, b: 0.5)):
        classifier = make_classifier(epochs=1, scoring=scoring).fit(texts, y, X_val=texts, y_val=y)
        assert classifier.validation_scores_ == [0.5]


@pytest.mark.parametrize("method", ["predict_proba", "predict_log_proba", "decision_function"])
def test_a_callable_scorer_is_given_the_predictions(method, make_classifier, reviews):
    texts, y = reviews

    def scoring(estimator, X, y):
        assert list(texts) == X
        return float(getattr(estimator, method)(X).flat[3])

    classifier = make_classifier(epochs=1, scoring=scoring).fit(texts, y, X_val=texts, y_val=y)
    expected = getattr(classifier, method)(list(texts)).flat[3]
    assert classifier.validation_scores_ == [pytest.approx(float(expected), abs=1e-6)]


@pytest.mark.parametrize("pairs", [False, True])
def test_a_callable_scorer_chooses_among_the_texts(pairs, make_classifier, reviews):
    """As one that weighs them by their length, or looks at some of them."""
    texts, y = map(list, reviews)
    X = [(text, text[:8]) for text in texts] if pairs else texts
    chosen = [5, 2, 2, 9]
    asked = []

    def scoring(estimator, X, y):
        check_is_fitted(estimator)
        some = [X[row] for row in chosen]
        asked.append(estimator.predict_proba(pd.DataFrame(some)))
        assert len(estimator.predict([])) == 0
        return float(len(X))

    classifier = make_classifier(epochs=1, scoring=scoring).fit(X, y, X_val=X, y_val=y)
    assert classifier.validation_scores_ == [len(X)]
    np.testing.assert_allclose(asked[-1], classifier.predict_proba(X)[chosen], atol=1e-6)


def test_a_callable_scorer_has_no_other_predictions(make_classifier, reviews):
    classifier = make_classifier(scoring=lambda estimator, X, y: estimator.predict(["another"])[0])
    with pytest.raises(InputError, match=r"scoring=.*knows only the validation texts"):
        classifier.fit(*reviews, X_val=reviews[0], y_val=reviews[1])


def test_columns_of_other_names(make_classifier, reviews):
    texts, y = map(list, reviews)
    pairs = pd.DataFrame({"a": texts, "b": texts})
    with pytest.raises(InputError, match=r"X_val has the columns \['b', 'a'\], but X has \['a', 'b'\]"):
        make_classifier().fit(pairs, y, X_val=pairs[["b", "a"]], y_val=y)
    nameless = make_classifier(epochs=1).fit(pairs, y, X_val=pairs.to_numpy(), y_val=y)
    named = make_classifier(epochs=1).fit(pairs, y, X_val=pairs, y_val=y)
    assert nameless.validation_scores_ == named.validation_scores_


def test_scorers_use_joblib_in_their_own_thread(make_classifier, reviews):
    """They run while the filters of warnings are held, which a fit in another thread may wait for."""
    texts, y = reviews
    threads = []

    def scoring(estimator, X, y):
        threads.extend(joblib.Parallel()(joblib.delayed(threading.get_ident)() for _ in range(8)))
        return 0.5

    with joblib.parallel_config("threading", n_jobs=2):
        make_classifier(epochs=1, scoring=scoring).fit(texts, y, X_val=texts, y_val=y)
    assert set(threads) == {threading.get_ident()}


def test_validation_texts_of_a_pipeline(make_classifier, reviews):
    texts, y = reviews
    with sklearn.config_context(enable_metadata_routing=True):
        bert = make_classifier(epochs=1).set_fit_request(X_val=True, y_val=True)
        pipeline = Pipeline(
            [("clean", FunctionTransformer(lambda X: [x.lower() for x in X])), ("bert", bert)],
            transform_input=["X_val"],
        )
        pipeline.fit(list(texts), list(y), X_val=["GOOD", "BAD"], y_val=["pos", "neg"])
    assert len(pipeline["bert"].validation_scores_) == 1


BAD = {
    "length": (["a"], ["pos", "neg"], {}, "inconsistent numbers"),
    "unseen class": (["a", "b"], ["pos", "other"], {}, "other"),
    "no labels": (["a", "b"], None, {}, "y_val"),
    "no texts": (None, ["pos", "neg"], {}, "without X_val"),
    "pairs": ([("a", "b")], ["pos"], {}, "X_val has 2 columns, but X has 1"),
    "bad cell": (["a", 3], ["pos", "neg"], {}, "X_val has 3 .* row 1"),
    "missing label": (["a", "b"], ["pos", None], {}, "y_val contains NaN .* row 1"),
    "scorer of one class": (["a", "b"], ["pos", "neg"], {"scoring": "f1"}, "f1_macro"),
    "scorer of no name": (["a", "b"], ["pos", "neg"], {"scoring": "no_such_score"}, "scoring"),
    "scorer that fails": (
        ["a"],
        ["pos"],
        {"scoring": lambda e, X, y: 1 / 0},
        "failed .* a name or a callable",
    ),
    "metric": (["a", "b"], ["pos", "neg"], {"scoring": accuracy_score}, r"make_scorer\(accuracy_score\)\."),
    "scorer by name": (["a", "b"], ["pos", "neg"], {"scoring": "r2"}, "failed .*Use another scorer.$"),
    "scorer of NaN": (["a"], ["pos"], {"scoring": lambda e, X, y: float("nan")}, "NaN"),
}


@pytest.mark.parametrize(
    ("scoring", "remedy"),
    [
        ("f1", "'f1_macro'"),
        ("jaccard", "'f1_macro'"),
        ("roc_auc", "'roc_auc_ovr'"),
        (
            "roc_auc_ovr",
            r"no text of 'c', which the scorer may need: raise validation_fraction, or pass X_val and y_val",
        ),
    ],
)
def test_remedies_for_scorers_by_name(scoring, remedy, make_classifier, reviews):
    texts, y = list(reviews[0]), list("abc" * 8)
    n = 2 if "no text" in remedy else 3
    with pytest.raises(InputError, match=rf"scoring='{scoring}' failed on .*{remedy}") as caught:
        make_classifier(scoring=scoring).fit(texts, y, X_val=texts[:n], y_val=y[:n])
    assert "Expected a name" not in str(caught.value)


def test_errors_of_others_go_through_a_scorer(make_classifier, reviews):
    """A search that prunes ends a trial so."""

    class TrialPruned(Exception):  # noqa: N818  # as Optuna calls it
        pass

    def scoring(estimator, X, y):
        raise TrialPruned

    with pytest.raises(TrialPruned):
        make_classifier(scoring=scoring).fit(*reviews, X_val=["a"], y_val=["pos"])


@pytest.mark.parametrize("error", [MemoryError("no room"), RecursionError("too deep")])
def test_what_is_not_the_scorers_fault_comes_as_it_is(error, make_classifier, reviews):
    def scoring(estimator, X, y):
        raise error

    with pytest.raises(type(error), match=str(error)):
        make_classifier(scoring=scoring).fit(*reviews, X_val=["a"], y_val=["pos"])


@pytest.mark.parametrize("scoring", sorted({"neg_log_loss", "d2_log_loss_score"} & set(get_scorer_names())))
def test_scores_of_one_label_are_refused_for_several(scoring, make_classifier, reviews):
    texts, y = list(reviews[0]), np.eye(3, dtype=int)[np.arange(24) % 3]
    for given in (sklearn.metrics.get_scorer(scoring), scoring):
        classifier = make_classifier(scoring=given)
        with pytest.raises(InputError, match=r"all of them would score best.*f1_macro"):
            classifier.fit(texts, y, X_val=texts, y_val=y)
    assert classifier.fit(texts, y).n_iter_ > 0  # nothing is scored


@pytest.mark.parametrize("case", BAD)
def test_bad_validation_costs_no_step_and_no_earlier_fit(case, make_classifier, reviews, monkeypatch):
    from skbert.training import loop

    X_val, y_val, parameters, said = BAD[case]
    classifier = make_classifier().fit(*reviews).set_params(**parameters)
    before = dict(vars(classifier))
    monkeypatch.delattr(loop.Trainer, "train_step")  # the first step would fail otherwise
    with pytest.raises(ValueError, match=said):
        classifier.fit(*reviews, X_val=X_val, y_val=y_val)
    assert vars(classifier) == before


@pytest.mark.parametrize("given", [{}, {"early_stopping": True, "validation_fraction": 0.5}])
def test_a_scorer_that_goes_with_no_such_labels_is_named_before_texts_are_read(
    given, make_classifier, reviews, monkeypatch
):
    texts = list(reviews[0])
    y = np.array([[label == "pos", i % 3 == 0] for i, label in enumerate(reviews[1])])
    monkeypatch.setattr(preparing, "encode", lambda *args, **options: pytest.fail("texts were read"))
    held_out = {} if given else {"X_val": texts, "y_val": y}
    with pytest.raises(InputError, match="neg_log_loss"):
        make_classifier(scoring="neg_log_loss", **given).fit(texts, y, **held_out)


def test_a_fraction_that_leaves_a_side_empty(make_classifier):
    with pytest.raises(InputError, match=r"validation_fraction=0\.1 of 4 texts"):
        make_classifier(early_stopping=True).fit(["a", "b", "c", "d"], [0, 1, 0, 1])


def test_a_holdout_that_misses_a_class_is_said(make_classifier, reviews):
    texts, y = list(reviews[0]), list(reviews[1])
    with pytest.warns(
        SkbertWarning, match=r"\(2\) have none of the classes \[.*\]: their score says nothing"
    ):
        classifier = make_classifier(early_stopping=True, epochs=1).fit([*texts, "red"], [*y, "rare"])
    assert "rare" in classifier.classes_


def test_a_scorer_that_fails_without_a_word_is_named(make_classifier, reviews):
    def scoring(estimator, X, y):
        raise ValueError

    with pytest.raises(InputError, match=r"failed on the validation texts \(ValueError\)"):
        make_classifier(scoring=scoring).fit(*reviews, X_val=["a"], y_val=["pos"])


def test_a_score_of_groups_is_one_of_classes(make_classifier, reviews):
    texts, y = reviews
    classifier = make_classifier(epochs=1, scoring="adjusted_rand_score").fit(texts, y, X_val=texts, y_val=y)
    assert len(classifier.validation_scores_) == 1


@pytest.mark.parametrize(
    ("scoring", "labels"), [("neg_log_loss", "ab"), ("neg_log_loss", "abc"), ("neg_brier_score", "abc")]
)
def test_probabilities_are_scored_where_validation_texts_lack_a_class(
    scoring, labels, make_classifier, reviews
):
    """scikit-learn's own scorers would fail: they see only the classes of these texts."""
    texts, y = list(reviews[0]), list(labels * (24 // len(labels)))
    metric = log_loss if scoring == "neg_log_loss" else sklearn.metrics.brier_score_loss
    for given in (scoring, sklearn.metrics.get_scorer(scoring)):
        fitted = make_classifier(epochs=2, scoring=given).fit(texts, y, X_val=texts[:1], y_val=y[:1])
        expected = -metric(y[:1], fitted.predict_proba(texts[:1]), labels=list(labels))
        assert fitted.best_validation_score_ == pytest.approx(expected, rel=1e-6)
    assert given._kwargs == {}  # the caller's scorer is as it was


def test_a_metric_of_others_sees_no_texts_but_those_held_out(make_classifier, reviews):
    calls = []

    def metric(y_true, y_pred):
        calls.append(len(y_true))
        return float("nan")

    texts, y = list(reviews[0]), list("abc" * 8)
    with pytest.raises(InputError, match=r"NaN.*no text of 'c', which the scorer may need"):
        make_classifier(scoring=make_scorer(metric)).fit(texts, y, X_val=texts[:2], y_val=y[:2])
    assert set(calls) == {2}


@pytest.mark.parametrize(
    ("scoring", "labels", "remedy"),
    [
        ("r2", "abc", r"Use another scorer\.$"),  # it would fail on all classes, too
        ("roc_auc", "ab", "hey have no text of 'b', which the scorer may need"),
    ],
)
def test_a_missing_class_is_blamed_where_it_is_to_blame(scoring, labels, remedy, make_classifier, reviews):
    texts, y = list(reviews[0]), list(labels * (24 // len(labels)))
    with pytest.raises(InputError, match=rf"scoring='{scoring}'.*{remedy}"):
        make_classifier(scoring=scoring).fit(texts, y, X_val=texts[:2], y_val=["a", "a"])
