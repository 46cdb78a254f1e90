"""The rules behind "auto"."""

import numpy as np
import pytest

from skbert.defaults import auto_epochs, auto_learning_rate


@pytest.mark.parametrize(("width", "rate"), [(32, 1e-4), (384, 1e-4), (768, 5e-5), (1024, 3.75e-5)])
def test_learning_rate_falls_with_the_width(width, rate):
    assert auto_learning_rate(width) == pytest.approx(rate)
    assert auto_learning_rate(width, "adapters") == pytest.approx(10 * rate)
    assert auto_learning_rate(width, "linear head") == pytest.approx(30 * rate)
    assert auto_learning_rate(width, "linear head of labels") == pytest.approx(300 * rate)


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [
        ({}, 1e-4),
        ({"lora": 2}, 1e-3),
        ({"freeze": "encoder"}, 3e-3),
        ({"freeze": "encoder", "head_layers": 1}, 1e-4),
        ({"freeze": "gradual"}, 1e-4),
    ],
)
def test_the_rate_follows_from_what_trains(parameters, rate, make_classifier, reviews):
    classifier = make_classifier(learning_rate="auto", epochs=1, **parameters).fit(*map(list, reviews))
    assert classifier.learning_rate_ == pytest.approx(rate)


def test_the_rate_of_a_head_of_labels(make_classifier, reviews):
    classifier = make_classifier(learning_rate="auto", epochs=1, freeze="encoder")
    classifier.fit(list(reviews[0]), np.eye(2, dtype=int)[[0, 1] * 12])
    assert classifier.learning_rate_ == pytest.approx(3e-2)


@pytest.mark.parametrize(
    ("n_texts", "batch_size", "epochs"),
    [(4, 16, 15), (100, 16, 15), (300, 16, 11), (1000, 16, 4), (1100, 16, 3), (10**6, 16, 3), (1000, 1, 3)],
)
def test_few_texts_get_more_epochs(n_texts, batch_size, epochs):
    assert auto_epochs(n_texts, batch_size) == epochs


def test_steps_that_divide_two_hundred():
    assert auto_epochs(320, 16) == 10
    assert auto_epochs(321, 16) == 10
    assert auto_epochs(640, 16) == 5
