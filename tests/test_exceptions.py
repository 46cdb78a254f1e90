"""The tree of errors, as its docstring draws it."""

import pickle

import pytest

import skbert

TREE = {
    "InputError": (ValueError,),
    "InputTypeError": (ValueError, TypeError),
    "CheckpointError": (OSError, ValueError),
    "PersistenceError": (ValueError,),
    "NonFiniteLossError": (ArithmeticError,),
    "NonFiniteOutputError": (ArithmeticError,),
    "InsufficientMemoryError": (MemoryError,),
    "MissingExtraError": (ImportError,),
    "RankError": (RuntimeError,),
}
PUBLIC = {name for name in skbert.__all__ if name.endswith(("Error", "Warning"))}


def test_the_tree_is_whole():
    assert {*TREE, "SkbertError"} == {name for name in PUBLIC if name.endswith("Error")}


@pytest.mark.parametrize("name", TREE)
def test_each_error_is_the_built_in_too(name):
    error = getattr(skbert, name)
    assert issubclass(error, skbert.SkbertError)
    assert all(issubclass(error, built_in) for built_in in TREE[name])
    again = pickle.loads(pickle.dumps(error("what")))  # errors cross processes in a parallel search
    made = error.__new__(error, "what")  # as tblib makes them again, which Dask uses
    assert type(again) is type(made) is error
    assert str(again) == str(made) == "what"


@pytest.mark.parametrize("name", sorted(name for name in PUBLIC if name.endswith("Warning")))
def test_each_warning_is_one_of_skbert_that_users_see(name):
    assert issubclass(getattr(skbert, name), skbert.SkbertWarning)
    assert issubclass(getattr(skbert, name), UserWarning)


def test_every_public_name_can_be_had():
    for name in skbert.__all__:
        assert getattr(skbert, name).__name__ == name
    assert set(skbert.__all__) <= set(dir(skbert))
