"""numpy's floating-point errors: ignored inside, set as before outside."""

import sys

import numpy as np
import pytest
import torch

from skbert import BertClassifier, BertRegressor, InputError, NonFiniteOutputError
from skbert.data.labels import encode_labels
from skbert.data.outputs import in_units
from skbert.process.float_errors import ignoring_float_errors


@ignoring_float_errors
def inverse(values):
    return 1 / values


def test_neither_a_warning_nor_an_error():
    with np.errstate(divide="raise", invalid="warn"):
        before = np.geterr()
        assert inverse(np.zeros(1)).tolist() == [np.inf]
        assert np.geterr() == before
        with pytest.raises(FloatingPointError):
            1 / np.zeros(1)


def test_an_error_inside_leaves_nothing():
    before = np.geterr()
    with pytest.raises(TypeError):
        inverse("text")
    assert np.geterr() == before


class Interrupt:
    """Ctrl-C where numpy's exit from other settings begins."""

    def __init__(self):
        self.came = False

    def __call__(self, frame, event, _):
        if not self.came and event == "call" and frame.f_code is np.errstate.__exit__.__code__:
            self.came = True
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["predict", "fit"])
def test_an_interrupt_at_the_exit_leaves_nothing(method, tiny_bert):
    texts, stars = ["good", "bad", "sad", "nice"], [1.0, 2.0, 3.0, 4.0]
    model = BertRegressor(tiny_bert, epochs=1, max_length=16, random_state=0, device="cpu").fit(texts, stars)
    before, interrupt = np.geterr(), Interrupt()
    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            getattr(model, method)(*[texts, stars][: 1 + (method == "fit")])
    finally:
        sys.setprofile(None)
    assert interrupt.came
    assert np.geterr() == before


@pytest.mark.parametrize("kind", ["raise", "warn"])
@pytest.mark.filterwarnings("error")
def test_what_has_no_result_is_refused_in_words(kind):
    with np.errstate(over=kind, invalid=kind):
        with pytest.raises(NonFiniteOutputError, match="not finite in the units of y"):
            in_units(np.array([[1e10]]), np.zeros(1), np.array([1e300]), "continuous")
        with pytest.raises(InputError, match=r"too large for an int: 1e\+300 at row 1"):
            encode_labels(np.array([1.0, 1e300]), 2)


def test_what_underflows_is_zero(tiny_bert):
    texts, labels = ["good", "bad", "sad", "nice"], [0, 1, 0, 1]
    settings = {"epochs": 1, "max_length": 16, "random_state": 0, "device": "cpu", "precision": "float32"}
    model = BertClassifier(tiny_bert, **settings).fit(texts, labels)
    with torch.no_grad():
        model.model_.head.weight *= 1e5
    expected = [model.predict_proba(texts), model.predict_log_proba(texts)]
    assert 0 in expected[0]
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(model.predict_proba(texts), expected[0])
        np.testing.assert_array_equal(model.predict_log_proba(texts), expected[1])
        BertClassifier(tiny_bert, **settings).fit(texts, labels, sample_weight=[1e-320, 1, 1, 1])
        for numbers in ([0, 1e-310, 1, 3], [1e-300, 1e300, 1, 3]):
            BertRegressor(tiny_bert, **settings).fit(texts, numbers)
