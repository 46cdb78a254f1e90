"""Who watches a fit: the progress bar, and scikit-learn's callbacks."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skbert.training import callbacks
from skbert.training.callbacks import ProgressBar, Watcher, Watchers

try:
    from sklearn import callback as sklearn_callbacks
except ImportError:
    sklearn_callbacks = None
needs_callbacks = pytest.mark.skipif(sklearn_callbacks is None, reason="scikit-learn < 1.9 has no callbacks")


def test_the_bars_show_epochs_texts_and_loss(capfd):
    with ProgressBar() as bar:
        bar.fit_begin(2, 10)
        for epoch, loss in enumerate((0.4321, 0.1234)):
            bar.epoch_begin(epoch)
            bar.step(6, torch.tensor(1.0), 1e-3)
            bar.step(4, torch.tensor(1.0), 1e-3)
            assert not bar.epoch_end({"epoch": epoch + 1, "loss": loss, "validation_score": 0.5}, dict)
    shown = capfd.readouterr()
    assert shown.out == ""
    for number, loss in ((1, 0.4321), (2, 0.1234)):
        last = next(line for line in reversed(shown.err.split("\r")) if f"epoch {number}/2" in line)
        assert "100%" in last
        assert "10/10" in last
        assert "text/s" in last
        assert f"loss={loss}, validation_score=0.5" in last


def test_the_bar_shows_the_mean_loss_so_far_and_the_rate(capfd, monkeypatch):
    monkeypatch.setattr(ProgressBar, "_SECONDS_BETWEEN_LOSSES", 0.0)
    with ProgressBar() as bar:
        bar.fit_begin(1, 100)
        bar.epoch_begin(0)
        bar.skip(40, torch.tensor(10.0))  # of an interrupted fit: the sum of its losses
        bar.step(10, torch.tensor(1.0), 5e-5)
        bar.step(30, torch.tensor(2.0), 4e-5)
    assert "loss=1.0000, rate=4.0e-05" in capfd.readouterr().err


def test_the_bar_closes_after_an_error(capfd):
    bar = ProgressBar()  # known here still: the garbage collector would close it, too

    def interrupted():
        with Watchers([bar]) as watcher:
            watcher.fit_begin(1, 10)
            watcher.epoch_begin(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capfd.readouterr().err.endswith("\n")
    assert bar is not None


def test_the_mean_loss_so_far_is_that_of_the_epoch(capfd, monkeypatch):
    monkeypatch.setattr(ProgressBar, "_SECONDS_BETWEEN_LOSSES", 0.0)
    with ProgressBar() as bar:
        bar.fit_begin(2, 10)
        for epoch, loss in enumerate((4.0, 2.0)):
            bar.epoch_begin(epoch)
            bar.step(10, torch.tensor(loss), 1e-3)
            bar.epoch_end({"epoch": epoch + 1, "loss": loss}, dict)
    shown = capfd.readouterr().err
    assert "loss=4.0000, rate=1.0e-03" in shown
    assert "loss=2.0000, rate=1.0e-03" in shown


def test_verbose_chooses_the_bar(make_classifier, reviews, capfd):
    texts, labels = map(list, reviews)
    make_classifier(verbose=0).fit(texts, labels)
    assert capfd.readouterr() == ("", "")
    make_classifier(verbose=1).fit(texts, labels)
    assert "epoch 2/2: 100%" in capfd.readouterr().err


def test_all_watchers_hear_and_any_may_stop():
    class Stop(Watcher):
        def epoch_end(self, record, result):
            record["heard"] = record.get("heard", 0) + 1
            return record["heard"] == 1

    record = {}
    assert Watchers([Stop(), Stop()]).epoch_end(record, dict) is True
    assert record["heard"] == 2
    assert Watchers([Watcher()]).epoch_end({}, dict) is False


class Recorder:
    """A callback in scikit-learn's protocol that writes down what it hears."""

    def __init__(self, stop_after=None):
        self.heard = []
        self.stop_after = stop_after

    def setup(self, estimator, context):
        self.heard.append(("setup", context.task_name))

    def teardown(self, estimator, context):
        self.heard.append(("teardown", context.task_name))

    def on_fit_task_begin(self, estimator, context, *, X=None):
        self.heard.append(("begin", context.task_name, len(X)))

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        if context.task_name == "fit":
            self.heard.append(("end", "fit", fitted_estimator.predict_proba(X)))
            return False
        self.heard.append(("end", "epoch", fitted_estimator.predict_proba(X)))
        return context.task_id + 1 == self.stop_after


@needs_callbacks
def test_callbacks_hear_of_fit_and_epochs(make_classifier, reviews):
    texts, labels = map(list, reviews)
    recorder = Recorder()
    model = make_classifier().set_callbacks(recorder).fit(texts, labels)
    told = [entry[:2] for entry in recorder.heard]
    epoch = [("begin", "epoch"), ("end", "epoch")]
    assert told == [("setup", "fit"), ("begin", "fit"), *epoch, *epoch, ("end", "fit"), ("teardown", "fit")]
    assert recorder.heard[1][2] == len(texts)
    at_epochs = [entry[2] for entry in recorder.heard if entry[:2] == ("end", "epoch")]
    np.testing.assert_array_equal(at_epochs[-1], model.predict_proba(texts))
    np.testing.assert_array_equal(recorder.heard[-2][2], model.predict_proba(texts))
    assert not np.array_equal(at_epochs[0], at_epochs[1])


@needs_callbacks
def test_at_the_end_the_fitted_estimator_has_the_weights_of_the_best_epoch(make_classifier, reviews):
    texts, labels = map(list, reviews)
    recorder, told = Recorder(), iter([0, 2, 1])
    model = make_classifier(scoring=lambda *_: next(told)).set_callbacks(recorder)
    model.fit(texts, labels, X_val=texts, y_val=labels)
    np.testing.assert_array_equal(recorder.heard[-2][2], model.predict_proba(texts))
    assert not np.array_equal(recorder.heard[-3][2], model.predict_proba(texts))


@needs_callbacks
def test_watching_changes_nothing(make_classifier, reviews):
    texts, labels = map(list, reviews)
    watched = make_classifier(dropout=0.1).set_callbacks(Recorder()).fit(texts, labels)
    alone = make_classifier(dropout=0.1).fit(texts, labels)
    np.testing.assert_array_equal(watched.predict_proba(texts), alone.predict_proba(texts))


@needs_callbacks
def test_a_callback_may_stop_the_fit(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier(epochs=5).set_callbacks(Recorder(stop_after=2)).fit(texts, labels)
    assert model.n_iter_ == len(model.loss_curve_) == 2


@needs_callbacks
def test_callbacks_are_torn_down_when_a_fit_fails(make_classifier, reviews):
    texts, labels = map(list, reviews)
    recorder = Recorder()
    model = make_classifier(learning_rate=1e30, weight_decay=1e3).set_callbacks(recorder)
    with pytest.raises(ArithmeticError):
        model.fit(texts, labels)
    assert recorder.heard[-1] == ("teardown", "fit")
    assert not hasattr(model, "model_")
    assert set(vars(model)) == {*model.get_params(), "_skl_callbacks"}


@needs_callbacks
@pytest.mark.parametrize("parameters", [{}, {"lora": 2}, {"freeze": "gradual"}, {"precision": "bfloat16"}])
def test_scoring_monitor(make_classifier, reviews, parameters):
    texts, labels = map(list, reviews)
    monitor = sklearn_callbacks.ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    model = make_classifier(epochs=3, **parameters).set_callbacks(monitor).fit(texts, labels)
    log = monitor.get_logs().data_as_pandas
    assert sorted(log["task_name"]) == ["epoch"] * 3 + ["fit"]
    at_the_end = log[log["task_name"] == "fit"]
    assert at_the_end["accuracy"].tolist() == [model.score(texts, labels)]
    assert log["accuracy"].iloc[-1] == model.score(texts, labels)


@needs_callbacks
def test_scoring_monitor_uses_the_weights(make_classifier, reviews):
    texts, labels = map(list, reviews)
    weights = [1.0 if label == "pos" else 0.0 for label in labels[:-1]] + [1.0]
    weights[0] = 1e-9
    monitor = sklearn_callbacks.ScoringMonitor(scoring="accuracy")
    model = make_classifier(epochs=1).set_callbacks(monitor).fit(texts, labels, sample_weight=weights)
    logged = monitor.get_logs().data_as_pandas["accuracy"].tolist()
    assert logged == [pytest.approx(model.score(texts, labels, sample_weight=weights))] * 2


@needs_callbacks
def test_progress_bar_of_scikit_learn_in_a_pipeline_and_a_search(make_classifier, reviews, capsys):
    pytest.importorskip("rich")
    texts, labels = map(list, reviews)
    pipeline = make_pipeline(make_classifier(epochs=1))
    pipeline.set_callbacks(sklearn_callbacks.ProgressBar()).fit(texts, labels)
    assert "BertClassifier - fit" in capsys.readouterr().out
    search = GridSearchCV(make_classifier(epochs=1), {"batch_size": [4, 8]}, cv=2)
    search.set_callbacks(sklearn_callbacks.ProgressBar()).fit(texts, labels)
    assert "BertClassifier" in capsys.readouterr().out


@needs_callbacks
def test_callbacks_survive_clone_and_pickle(make_classifier, reviews):
    texts, labels = map(list, reviews)
    model = make_classifier().set_callbacks(Recorder())
    assert len(clone(model)._skl_callbacks) == 1
    fitted = pickle.loads(pickle.dumps(model.fit(texts, labels)))
    np.testing.assert_array_equal(fitted.predict(texts), model.predict(texts))


@needs_callbacks
def test_without_callbacks_in_scikit_learn_fit_works_the_same(make_classifier, reviews, monkeypatch):
    texts, labels = map(list, reviews)
    expected = make_classifier().fit(texts, labels).predict_proba(texts)
    monkeypatch.setattr("skbert.learning.HAS_CALLBACKS", False)
    np.testing.assert_array_equal(make_classifier().fit(texts, labels).predict_proba(texts), expected)
    assert callbacks.HAS_CALLBACKS


@needs_callbacks
def test_a_callback_sees_the_epochs_of_earlier_calls(make_classifier, reviews):
    texts, labels = map(list, reviews)
    seen = []

    def look(estimator, X, y):
        seen.append((estimator.n_iter_, list(estimator.loss_curve_)))
        return {"seen": 0.0}

    model = make_classifier().set_callbacks(sklearn_callbacks.ScoringMonitor(scoring=look))
    for call in range(1, 4):
        model.partial_fit(texts, labels, classes=["neg", "pos"])
        assert seen[-1] == (call, model.loss_curve_)
