"""The rules behind "auto"."""

import pytest

from skbert.defaults import auto_epochs, auto_learning_rate


@pytest.mark.parametrize(("width", "rate"), [(32, 1e-4), (384, 1e-4), (768, 5e-5), (1024, 3.75e-5)])
def test_learning_rate_falls_with_the_width(width, rate):
    assert auto_learning_rate(width) == pytest.approx(rate)
    assert auto_learning_rate(width, adapters=True) == pytest.approx(10 * rate)


def test_a_fit_with_adapters_takes_the_higher_rate(make_classifier, reviews):
    rates = [
        make_classifier(learning_rate="auto", epochs=1, lora=lora).fit(*map(list, reviews)).learning_rate_
        for lora in (None, 2)
    ]
    assert rates == pytest.approx([1e-4, 1e-3])


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
