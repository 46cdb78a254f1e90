"""The tree of errors, as its docstring draws it."""

import pickle

import pytest

import skbert

TREE = {
    "InputError": ValueError,
    "InputTypeError": TypeError,
    "CheckpointError": OSError,
    "PersistenceError": ValueError,
    "NonFiniteLossError": ArithmeticError,
    "NonFiniteOutputError": ArithmeticError,
    "RankError": RuntimeError,
}


@pytest.mark.parametrize("name", TREE)
def test_each_error_is_the_built_in_too(name):
    error = getattr(skbert, name)
    assert issubclass(error, skbert.SkbertError)
    assert issubclass(error, TREE[name])
    again = pickle.loads(pickle.dumps(error("what")))  # errors cross processes in a parallel search
    assert type(again) is error
    assert str(again) == "what"


def test_warnings():
    assert issubclass(skbert.TruncationWarning, skbert.SkbertWarning)
    assert issubclass(skbert.SkbertWarning, UserWarning)


def test_every_public_name_can_be_had():
    for name in skbert.__all__:
        assert getattr(skbert, name).__name__ == name
    assert set(skbert.__all__) <= set(dir(skbert))
