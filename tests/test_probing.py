"""The head's start against scikit-learn's logistic regression."""

import functools

import numpy as np
import pytest
import torch
from checkpoints import build_model, load_tokenizer
from sklearn.linear_model import LogisticRegression, Ridge

from skbert import BertRegressor, starting
from skbert.data.encoding import encode
from skbert.data.fit_data import TrainingData
from skbert.data.inputs import Texts
from skbert.data.outputs import probabilities
from skbert.randomness import Generators
from skbert.training.probing import (
    _parts,
    choose_rows,
    fit_probe,
    generalizes,
    init_biases,
    init_from_probe,
)


def make_model(folder, n_outputs):
    return build_model(folder, "mean", n_outputs, dropout=0.0).requires_grad_(False)


def make_data(n_classes):
    rng = np.random.default_rng(0)
    codes = np.arange(90) % n_classes
    centres = rng.normal(size=(n_classes, 32))
    return (centres[codes] + rng.normal(size=(90, 32))).astype(np.float32), codes, rng.uniform(0.5, 2, 90)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_head_gives_the_probes_probabilities(n_classes, tiny_bert):
    embeddings, codes, weights = make_data(n_classes)
    model = make_model(tiny_bert, n_classes)
    assert init_from_probe(model, embeddings, codes, weights)
    ours = probabilities(model.head(torch.from_numpy(embeddings)).numpy(), "multiclass")
    norm = np.average(np.linalg.norm(embeddings, axis=1), weights=weights)
    strength = 30 / (weights.sum() / n_classes)
    probe = LogisticRegression(C=strength, max_iter=200).fit(embeddings / norm, codes, sample_weight=weights)
    np.testing.assert_allclose(ours, probe.predict_proba(embeddings / norm), atol=1e-4)


def test_a_class_without_rows_is_never_the_likeliest(tiny_bert):
    embeddings, codes, weights = make_data(3)
    model = make_model(tiny_bert, 4)
    init_from_probe(model, embeddings, np.where(codes == 2, 3, codes), weights)  # class 2 is missing
    predicted = model.head(torch.from_numpy(embeddings)).argmax(1)
    assert set(predicted.tolist()) == {0, 1, 3}
    assert not model.head.weight[2].any()


def test_one_class_leaves_the_random_head(tiny_bert):
    embeddings, _, weights = make_data(2)
    model = make_model(tiny_bert, 2)
    before = model.head.weight.clone()
    assert not init_from_probe(model, embeddings, np.zeros(90, dtype=int), weights)
    assert torch.equal(model.head.weight, before)


def test_no_warning_where_the_probe_does_not_converge(tiny_bert, recwarn):
    embeddings, codes, weights = make_data(5)
    init_from_probe(make_model(tiny_bert, 5), embeddings * [1e4] + 1e6, codes, weights)
    assert not recwarn.list


def test_rows_of_the_probe():
    rng = np.random.default_rng(0)
    assert choose_rows(10, rng).tolist() == list(range(10))
    rows = choose_rows(50_000, rng)
    assert len(set(rows.tolist())) == 20_000
    assert (np.diff(rows) > 0).all()


def test_generalizes_where_embeddings_tell_the_classes():
    embeddings, codes, weights = make_data(5)
    assert generalizes(embeddings, codes, weights, 5, np.random.default_rng(0))


def test_what_weighs_next_to_nothing_does_not_decide_whether_it_generalizes():
    embeddings, codes, _ = make_data(2)
    wrong = np.arange(90) % 3 > 0
    weights = np.where(wrong, 1e-6, 1.0)
    assert generalizes(embeddings, np.where(wrong, 1 - codes, codes), weights, 2, np.random.default_rng(0))


def test_does_not_generalize_on_noise():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(300, 64)).astype(np.float32)
    assert not generalizes(embeddings, rng.integers(0, 2, 300), np.ones(300), 2, rng)


def test_what_was_seen_proves_nothing():
    """Labels of chance, each text given three times: by rows a probe knows them, by texts it does not."""
    rng = np.random.default_rng(0)
    embeddings = np.repeat(rng.normal(size=(100, 64)).astype(np.float32), 3, axis=0)
    codes, weights = np.repeat(rng.integers(0, 2, 100), 3), np.ones(300)
    answers = [
        [generalizes(embeddings, codes, weights, 2, np.random.default_rng(seed), places) for seed in range(5)]
        for places in (None, np.repeat(np.arange(100), 3))
    ]
    assert sum(answers[0]) == 5
    assert sum(answers[1]) <= 1


@pytest.mark.parametrize(("n_groups", "n_each"), [(2, 500), (3, 2500), (20, 1000), (3, 500)])
def test_noise_does_not_generalize_to_other_groups_however_large(n_groups, n_each):
    answers = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        n = n_groups * n_each
        embeddings, codes = rng.normal(size=(n, 64)), rng.integers(0, 2, n)
        groups = np.repeat(np.arange(n_groups), n_each)
        answers.append(generalizes(embeddings, codes, np.ones(n), 2, rng, groups))
    assert sum(answers) <= 5  # by chance, where there is so much of it; before, all of them


def test_parts_are_of_whole_groups_and_near_a_third():
    for sizes, n_held in (([160, 20, 20], 40), ([80, 10, 10], 20), ([1], 0), ([1, 1], 0), ([50, 40], 40)):
        groups = np.repeat(np.arange(len(sizes)), sizes)
        for seed in range(5):
            fit, held = _parts(groups, np.random.default_rng(seed))
            assert sorted([*fit, *held]) == list(range(len(groups)))
            assert not set(groups[fit]) & set(groups[held])
            assert len(held) == n_held


def test_copies_in_other_groups_do_not_make_noise_generalize():
    rng = np.random.default_rng(0)
    embeddings, codes = np.tile(rng.normal(size=(20, 8)), (10, 1)), np.tile(rng.integers(0, 2, 20), 10)
    texts = np.tile(np.arange(20), 10)
    answers = [
        generalizes(embeddings, codes, np.ones(200), 2, np.random.default_rng(seed), np.arange(200), given)
        for given in (None, texts)
        for seed in range(3)
    ]
    assert answers[:3] == [True] * 3
    assert sum(answers[3:]) <= 1


def test_windows_of_one_text_are_in_one_part(tiny_bert):
    tokenizer = load_tokenizer(tiny_bert)
    texts = ["good film " * 20, "bad", "good film " * 20, "the cat " * 20]
    encodings = encode(tokenizer, Texts(texts), 16, "windows")
    assert len(encodings) > 4
    groups = starting._text_groups(encodings, np.arange(len(encodings)))
    assert groups.tolist() == [[0, 1, 0, 2][owner] for owner in encodings.owners]


def test_copies_are_asked_once_with_the_weight_of_all(tiny_bert):
    """Equal to each text once, weighted: with copies the draws would see few different texts."""
    tokenizer = load_tokenizer(tiny_bert)
    texts = [f"{a} {b} film" for a in "good bad dull fine".split() for b in "cat dog bird fish sea".split()]
    times, rng = np.arange(20) % 4 + 1, np.random.default_rng(0)
    embeddings, codes = rng.normal(size=(20, 8)).astype(np.float32), rng.integers(0, 2, 20)
    asked = []
    for rows, weights in (
        (np.arange(20), times.astype(float)),
        (np.repeat(np.arange(20), times), np.ones(50)),
    ):
        encodings = encode(tokenizer, Texts([texts[row] for row in rows]), 16)
        generators = Generators.from_seed(0, torch.device("cpu"))
        seen = (embeddings[rows], codes[rows], weights)
        model = make_model(tiny_bert, 2)
        data = TrainingData(encodings, codes[rows], weights, np.ones(2))
        answer = starting._generalizes(model, data, np.arange(len(rows)), seen, generators)
        asked.append((answer, generators.probe.bit_generator.state))
    assert asked[0] == asked[1]


def test_generalizes_with_too_few_rows_to_tell():
    embeddings = np.eye(4, dtype=np.float32)
    assert generalizes(embeddings[:2], np.array([0, 1]), np.ones(2), 2, np.random.default_rng(0))
    assert generalizes(embeddings, np.arange(4), np.ones(4), 4, np.random.default_rng(0))


def make_indicator():
    embeddings, codes, weights = make_data(3)
    indicator = np.stack([codes == 0, codes != 1, np.ones(90, dtype=bool)], axis=1).astype(np.int64)
    return embeddings, indicator, np.broadcast_to(weights[:, None], (90, 3))


def test_head_of_an_indicator_gives_each_labels_probe(tiny_bert):
    embeddings, indicator, weights = make_indicator()
    model = make_model(tiny_bert, 3)
    init_from_probe(model, embeddings, indicator, weights)
    ours = probabilities(model.head(torch.from_numpy(embeddings)).numpy(), "multilabel-indicator")
    norm = np.average(np.linalg.norm(embeddings, axis=1), weights=weights[:, 0])
    strength = 30 / ((weights * indicator).sum() / 3)
    for label in (0, 1):
        probe = LogisticRegression(C=strength, max_iter=200)
        probe.fit(embeddings / norm, indicator[:, label], sample_weight=weights[:, 0])
        np.testing.assert_allclose(ours[:, label], probe.predict_proba(embeddings / norm)[:, 1], atol=1e-4)
    assert ours[:, 2].min() > 0.98  # this label is always there


def test_each_labels_probe_has_the_labels_own_weights():
    embeddings, indicator, _ = make_indicator()
    weights = np.random.default_rng(0).uniform(0.1, 5.0, indicator.shape)
    coefficients, intercepts = fit_probe(embeddings, indicator, weights, indicator.shape[1])
    norm = np.average(np.linalg.norm(embeddings, axis=1), weights=weights.mean(axis=1))
    strength = 30 / ((weights * indicator).sum() / indicator.shape[1])
    for label in (0, 1):
        probe = LogisticRegression(C=strength, max_iter=200)
        probe.fit(embeddings / norm, indicator[:, label], sample_weight=weights[:, label])
        np.testing.assert_allclose(coefficients[label], probe.coef_[0] / norm, atol=1e-4)
        np.testing.assert_allclose(intercepts[label], probe.intercept_[0], atol=1e-4)


def test_labels_start_at_their_log_odds(tiny_bert):
    _, indicator, weights = make_indicator()
    model = make_model(tiny_bert, 3)
    init_biases(model, indicator, weights, np.ones(3))
    ones, total = (weights * indicator).sum(axis=0), weights.sum(axis=0)
    np.testing.assert_allclose(model.head.bias.numpy(), np.log((ones + 1) / (total - ones + 1)), rtol=1e-5)
    assert model.head.bias[2] == pytest.approx(np.log(total[2] + 1))  # this label is always there


def test_classes_start_at_what_they_weigh(tiny_bert):
    codes, class_weights = np.array([0, 1, 2, 2]), np.array([1.0, 2.0, 0.5])
    model = make_model(tiny_bert, 3)
    init_biases(model, codes, class_weights[codes], class_weights)
    np.testing.assert_allclose(model.head.bias.numpy(), np.log(class_weights), rtol=1e-6)


def test_classes_without_a_row_start_as_far_below_as_they_weigh_less(tiny_bert):
    embeddings, codes, weights = make_data(3)
    model = make_model(tiny_bert, 5)
    class_weights = np.array([1.0, 1.0, 1.0, 1e-9, 1.0])
    init_biases(model, codes, weights, class_weights)
    init_from_probe(model, embeddings, codes, weights)
    biases = model.head.bias.detach().numpy()
    assert biases[4] == pytest.approx(biases[:3].min() - 1)
    assert biases[3] == pytest.approx(biases[4] + np.log(1e-9))
    assert not model.head.weight[3:].any()


def test_ones_that_weigh_nothing(tiny_bert):
    embeddings, indicator, weights = make_indicator()
    model = make_model(tiny_bert, 3)
    init_from_probe(model, embeddings, indicator, weights * (1 - indicator))
    assert model.head.weight.isfinite().all()


def test_generalizes_on_an_indicator():
    embeddings, indicator, weights = make_indicator()
    assert generalizes(embeddings, indicator, weights, 3, np.random.default_rng(0))
    noise = np.random.default_rng(1).integers(0, 2, (300, 3))
    embeddings = np.random.default_rng(2).normal(size=(300, 64)).astype(np.float32)
    assert not generalizes(embeddings, noise, np.ones((300, 3)), 3, np.random.default_rng(0))


# Numbers


def make_numbers(n_outputs):
    """Embeddings, and numbers that follow from them, standardized."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(90, 32)).astype(np.float32)
    numbers = embeddings @ rng.normal(size=(32, n_outputs)) + rng.normal(size=(90, n_outputs))
    return embeddings, numbers / numbers.std(axis=0), rng.uniform(0.5, 2, (90, 1)).repeat(n_outputs, axis=1)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_head_gives_what_ridge_does(n_outputs, tiny_bert):
    embeddings, numbers, weights = make_numbers(n_outputs)
    model = make_model(tiny_bert, n_outputs)
    assert init_from_probe(model, embeddings, numbers, weights)
    norm = np.average(np.linalg.norm(embeddings, axis=1), weights=weights[:, 0])
    ridge = Ridge(alpha=weights[:, 0].sum() / 3).fit(embeddings / norm, numbers, weights[:, 0])
    expected = ridge.predict(embeddings / norm).reshape(90, n_outputs)
    np.testing.assert_allclose(model.head(torch.from_numpy(embeddings)).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_a_ridge_probe_is_held_against_the_mean(n_outputs):
    embeddings, numbers, weights = make_numbers(n_outputs)
    draw = np.random.default_rng(0)
    assert all(generalizes(embeddings, numbers, weights, n_outputs, draw) for _ in range(10))
    # Of noise it fits little, so weak is it: which is better is then a matter of chance.
    noise = [draw.normal(size=numbers.shape) for _ in range(40)]
    assert sum(generalizes(embeddings, targets, weights, n_outputs, draw) for targets in noise) < 30


def test_numbers_start_at_their_mean(tiny_bert):
    model = make_model(tiny_bert, 2)
    numbers, weights = np.array([[1.0, 2.0], [3.0, 8.0]]), np.array([[3.0, 3.0], [1.0, 1.0]])
    init_biases(model, numbers, weights, np.ones(2))
    assert model.head.bias.tolist() == [1.5, 3.5]


def test_numbers_that_are_all_the_same_leave_the_random_head(tiny_bert):
    embeddings, _, weights = make_numbers(1)
    model = make_model(tiny_bert, 1)
    before = model.head.weight.clone()
    assert not init_from_probe(model, embeddings, np.zeros((90, 1)), weights)
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize("probe", [LogisticRegression, Ridge])
def test_who_watches_scikit_learns_fits_sees_no_probe(probe, make_classifier, reviews, monkeypatch):
    """As mlflow's autologging does, which would store the probe as a model of the user's."""
    seen = []

    @functools.wraps(probe.fit)
    def watched(estimator, *args, real=probe.fit, **kwargs):
        seen.append(estimator)
        return real(estimator, *args, **kwargs)

    texts, labels = map(list, reviews)
    estimator = make_classifier() if probe is LogisticRegression else BertRegressor(make_classifier().model)
    y = labels if probe is LogisticRegression else range(24)
    expected = estimator.set_params(epochs=1, max_length=32, random_state=0).fit(texts, y).transform(texts)
    monkeypatch.setattr(probe, "fit", watched)
    assert estimator.fit(texts, y).head_init_ == "linear_probe"
    np.testing.assert_array_equal(estimator.transform(texts), expected)
    assert not seen
    probe().fit([[0.0], [1.0]], [0, 1])
    assert len(seen) == 1


def test_classes_without_a_row_where_the_others_weigh_more_than_one(tiny_bert):
    embeddings, codes, weights = make_data(3)
    biases = []
    for scale in (1.0, 100.0):  # only ratios count
        model = make_model(tiny_bert, 4)
        class_weights = scale * np.array([1.0, 0.5, 1.0, 0.25])
        init_biases(model, codes, weights, class_weights)
        init_from_probe(model, embeddings, codes, weights)
        biases.append(model.head.bias.detach().numpy())
    np.testing.assert_allclose(biases[0], biases[1], atol=1e-5)


def test_where_each_text_is_longer_than_a_part_none_is_left():
    """Of two texts each is longer than the part that is held: none is left to predict."""
    places = codes = np.repeat([0, 1], [40, 50])
    seen = np.repeat([0, 1, 0], [30, 10, 50])  # most look like the other text
    embeddings = np.eye(2, dtype=np.float32)[seen]
    draws = [np.random.default_rng(seed) for seed in range(10)]
    assert all(generalizes(embeddings, codes, np.ones(90), 2, draw, places) for draw in draws)


def test_a_class_of_one_row_does_not_make_noise_generalize():
    rng = np.random.default_rng(0)
    noise, codes = rng.normal(size=(300, 64)).astype(np.float32), rng.integers(0, 2, 300)
    codes[:3] = [2, 3, 4]
    draws = [np.random.default_rng(seed) for seed in range(10)]
    assert not any(generalizes(noise, codes, np.ones(300), 5, draw) for draw in draws)
