"""The warning about a fit that learned nothing."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from limits import at_most

from skbert import CollapseWarning, inference
from skbert.data.encoding import encode
from skbert.data.fit_data import TrainingData
from skbert.data.inputs import Texts
from skbert.data.labels import encode_labels
from skbert.data.outputs import make_loss
from skbert.runtime import Runtime
from skbert.training import diagnosis
from skbert.training.diagnosis import constant_loss


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_constant_loss_is_the_least_that_a_constant_reaches(smoothing):
    targets = np.array([0, 1, 1, 2, 2, 2])
    weights = np.array([1.0, 2, 1, 1, 0.5, 0.5])
    weights /= weights.mean()
    found = _least_loss("multiclass", targets, weights, 3, smoothing)
    assert constant_loss(targets, weights, 3, smoothing) == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_constant_loss_of_an_indicator(smoothing):
    targets = np.array([[0, 1], [1, 1], [0, 0], [0, 1]])
    weights = np.array([[1.0, 2], [1, 1], [1, 1], [0.5, 0.5]])
    weights /= weights.mean()
    found = _least_loss("multilabel-indicator", targets, weights, 2, smoothing)
    assert constant_loss(targets, weights, 2, smoothing) == pytest.approx(found, rel=1e-4)


def test_labels_without_weight_count_for_nothing():
    targets, weights = np.array([[0, 1], [1, 1]]), np.array([[1.0, 0], [1, 0]])
    assert constant_loss(targets, weights, 2, 0.0) == pytest.approx(np.log(2))


def test_constant_loss_of_numbers_is_their_variance():
    targets, weights = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]]), np.array([[1.0], [1.0], [2.0]])
    found = _least_loss("continuous-multioutput", targets, weights / weights.mean(), 2, 0.0)
    assert constant_loss(targets, weights, 2, 0.0) == pytest.approx(found, rel=1e-4)


def test_numbers_are_asked_from_the_lowest_to_the_highest():
    targets = np.random.default_rng(0).permutation(np.arange(1000.0))[:, None]
    rows = diagnosis.texts_of_all_classes(targets, 64)
    assert len(set(rows)) == 64
    assert {targets[rows].min(), targets[rows].max()} == {0.0, 999.0}
    assert targets[rows[:16]].std() > 200  # the first few, too
    assert sorted(diagnosis.texts_of_all_classes(targets[:3], 64)) == [0, 1, 2]


def _least_loss(target_type, targets, weights, n_outputs, smoothing):
    logits = torch.zeros(n_outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200)
    loss = make_loss(target_type, smoothing)
    given = torch.from_numpy(targets), torch.from_numpy(weights).float()

    def closure():
        optimizer.zero_grad()
        value = loss(logits.expand(len(targets), -1), *given)
        value.backward()
        return value

    optimizer.step(closure)
    return F.relu(closure()).item()


def test_a_collapsed_fit_is_warned_about(make_classifier, reviews):
    texts = list(reviews[0])
    labels = ["rare"] * 4 + ["usual"] * 20
    with pytest.warns(CollapseWarning, match=r"'usual' for all 24.*0\.4\d\d.*more epochs") as caught:
        make_classifier(head_init="random", learning_rate=1e-6).fit(texts, labels)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("last_loss", "said"),
    [
        (0.41, "not enough to change a prediction: try more epochs, or class_weight='balanced'.$"),
        (0.45, "learned nothing yet.*another learning_rate, or class_weight='balanced'.$"),
        (162.0, "diverged: lower learning_rate.$"),
    ],
)
def test_the_loss_tells_what_to_do(last_loss, said, make_classifier, reviews):
    """That of the class frequencies is 0.451."""
    texts, labels = list(reviews[0]), ["rare"] * 4 + ["usual"] * 20
    with pytest.warns(CollapseWarning):
        fitted = make_classifier(head_init="random", learning_rate=1e-6).fit(texts, labels)
    known = encode_labels(labels, len(labels))
    data = TrainingData(encode(fitted.tokenizer_, Texts(texts), 32), known.codes, np.ones(24), np.ones(2))
    place = Runtime(torch.device("cpu"), torch.float32)
    with pytest.warns(CollapseWarning, match=said):
        diagnosis.warn_of_collapse(fitted.model_, last_loss, data, known, 0.0, place)


def test_windows_are_counted_as_the_texts_that_they_are_of(make_classifier, reviews):
    texts = [f"{text} {'good ' * 40}" for text in reviews[0]]
    windows = make_classifier(long_text="windows", head_init="random", learning_rate=1e-6)
    with pytest.warns(CollapseWarning, match=r"'usual' for all 24 training texts"):
        windows.fit(texts, ["rare"] * 4 + ["usual"] * 20)


def test_of_long_texts_in_windows_many_are_checked(make_classifier, reviews):
    """The first 64 windows are all of two texts."""
    texts = [f"{text} {'good ' * 900}" for text in reviews[0]]
    windows = make_classifier(long_text="windows", head_init="random", learning_rate=1e-6, epochs=1)
    with pytest.warns(CollapseWarning, match=r"'usual' for all (1\d|2\d) training texts"):
        windows.fit(texts, ["rare"] * 4 + ["usual"] * 20)


def test_a_collapsed_multilabel_fit_is_warned_about(make_classifier, reviews):
    texts = list(reviews[0])
    y = np.zeros((24, 3), int)
    y[:3] = np.eye(3)
    with pytest.warns(CollapseWarning, match=r"\[0, 0, 0\] for all.*, or class_weight='balanced'"):
        make_classifier(head_init="random").fit(texts, y)


def test_weights_of_classes_are_no_remedy_where_classes_weigh_the_same(make_classifier):
    with pytest.warns(CollapseWarning) as caught:
        make_classifier(head_init="random", epochs=1).fit(["same"] * 9, [0, 1] * 4 + [0])
    assert "class_weight" not in str(caught[0].message)
    texts, y = ["same"] * 9, [0] * 8 + [1]
    with pytest.warns(CollapseWarning, match="or class_weight='balanced'"):
        make_classifier(head_init="random", epochs=1).fit(texts, y)
    with pytest.warns(CollapseWarning) as caught:
        make_classifier(head_init="random", epochs=1, class_weight="balanced").fit(texts, y)
    assert "class_weight" not in str(caught[0].message)


def test_the_loss_is_that_of_the_epoch_whose_weights_were_kept(make_classifier, reviews):
    """Later epochs have learned, but the fitted model has not."""
    texts, y = map(list, reviews)
    told = iter(range(100, 0, -1))
    classifier = make_classifier(epochs=20, head_init="random", scoring=lambda *_: next(told))
    with pytest.warns(CollapseWarning, match="its training loss is 0.[67]"):
        classifier.fit(texts, y, X_val=texts, y_val=y)
    assert classifier.loss_curve_[-1] < 0.5


def test_a_fit_that_learned_is_not(make_classifier, reviews):
    texts, labels = map(list, reviews)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        model = make_classifier(epochs=12, head_init="random").fit(texts, labels)
    assert len(set(model.predict(texts))) == 2


def test_texts_of_all_classes():
    codes = np.array([2, 0, 0, 0, 1, 0, 1])
    assert diagnosis.texts_of_all_classes(codes, 100).tolist() == [1, 4, 0, 2, 6, 3, 5]
    assert diagnosis.texts_of_all_classes(codes, 3).tolist() == [1, 4, 0]
    indicator = np.array([[0, 1], [0, 1], [1, 1], [0, 0]])
    assert diagnosis.texts_of_all_classes(indicator, 3).tolist() == [3, 0, 2]


def test_a_rare_class_that_is_told_apart_is_seen(make_classifier, reviews):
    """One text in 500 is of it: texts spread over all rows would hardly meet it."""
    bad, good = reviews[0][:2]
    texts, y = [good] * 499 + [bad], ["pos"] * 499 + ["neg"]
    fitted = make_classifier(epochs=12, head_init="random").fit(*map(list, reviews))
    assert fitted.predict([good, bad]).tolist() == ["pos", "neg"]
    data = TrainingData(
        encode(fitted.tokenizer_, Texts(texts), 32),
        encode_labels(y, len(y)).codes,
        np.ones(len(y)),
        np.ones(2),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        diagnosis.warn_of_collapse(
            fitted.model_,
            np.inf,
            data,
            encode_labels(y, len(y)),
            0.0,
            Runtime(torch.device("cpu"), torch.float32),
        )


@pytest.mark.parametrize("collapsed", [False, True])
def test_a_few_texts_are_asked_first(collapsed, make_classifier, reviews, monkeypatch):
    texts, y = (
        [text for text in reviews[0] for _ in range(3)],
        [label for label in reviews[1] for _ in range(3)],
    )
    fitted = make_classifier(epochs=12, head_init="random").fit(texts, y)
    if collapsed:
        fitted.model_.head.weight.zero_()
    asked = []

    def run_model(model, encodings, *rest):
        asked.append(len(encodings))
        return inference.run_model(model, encodings, *rest)

    monkeypatch.setattr(diagnosis, "run_model", run_model)
    encodings = encode(fitted.tokenizer_, Texts(texts), 32)
    labels = encode_labels(y, len(y))
    data = TrainingData(encodings, labels.codes, np.ones(len(y)), np.ones(2))
    arguments = (fitted.model_, np.inf, data, labels, 0.0, Runtime(torch.device("cpu"), torch.float32))
    if collapsed:
        with pytest.warns(CollapseWarning, match="for all 64"):
            diagnosis.warn_of_collapse(*arguments)
    else:
        diagnosis.warn_of_collapse(*arguments)
    assert asked == ([16, 48] if collapsed else [16])


def test_where_memory_runs_out_a_fit_is_not_lost(make_classifier, reviews):
    texts, labels = map(list, reviews)
    fitted = make_classifier(precision="bfloat16").fit(texts, labels)
    encodings, known = encode(fitted.tokenizer_, Texts(texts), 32), encode_labels(labels, len(labels))
    data = TrainingData(encodings, known.codes, np.ones(len(texts)), np.ones(2))
    place = Runtime(torch.device("cpu"), torch.bfloat16)
    with at_most(0), warnings.catch_warnings():
        warnings.simplefilter("error")
        diagnosis.warn_of_collapse(fitted.model_, np.inf, data, known, 0.0, place)
    assert fitted.model_ not in inference._kept
