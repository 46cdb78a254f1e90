"""numpy's floating-point errors: ignored inside, set as before outside."""

import sys

import numpy as np
import pytest

from skbert import BertRegressor
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
