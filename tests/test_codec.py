"""Values as JSON and back: the same type and value, or an error."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from skbert import PersistenceError
from skbert.persistence.codec import Decoder, encode

NUMPY_DTYPES = st.one_of(
    st_numpy.boolean_dtypes(),
    st_numpy.integer_dtypes(endianness="?"),
    st_numpy.unsigned_integer_dtypes(endianness="?"),
    st_numpy.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    st_numpy.unicode_string_dtypes(endianness="?", max_len=5),
)
SHAPES = st_numpy.array_shapes(min_dims=0, min_side=0)
ARRAYS = NUMPY_DTYPES.flatmap(lambda dtype: st_numpy.arrays(dtype, SHAPES))
HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()).filter(lambda text: json.loads(json.dumps(text)) == text),  # lone surrogates too
    ARRAYS.filter(lambda array: array.ndim == 0).map(lambda array: array[()]),
    st.builds(Path, st.sampled_from(["a", "/b/c", "./d"])),
)
OBJECT_ARRAYS = st.lists(HASHABLE, max_size=4).map(partial(np.array, dtype=object))
VALUES = st.recursive(
    HASHABLE | ARRAYS | OBJECT_ARRAYS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(HASHABLE, inner, max_size=4),
    ),
    max_leaves=12,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                ["$tuple", "$dict", "$array", "$scalar", "$float", "$path", "$random_state", "dtype"]
            )
            | st.text(max_size=3),
            inner,
            max_size=3,
        ),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(
                    ["<f4", "object", "<U3", "|b1", "<i8", "M8[s]", "V8", "", "<U999999999"]
                ),
                "shape": inner,
                "items": inner,
            }
        ).map(lambda content: {"$array": content}),
    ),
    max_leaves=12,
)


def same(first, second):
    """Whether two values have one type and one value, in depth; NaN equals NaN."""
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray):
        return (
            first.dtype == second.dtype
            and first.shape == second.shape
            and all(map(same, first.ravel().tolist(), second.ravel().tolist()))
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return same(list(first.items()), list(second.items()))
    if isinstance(first, np.generic):
        return first.dtype == second.dtype and same(first.item(), second.item())
    if isinstance(first, float):
        return (
            first == second and math.copysign(1, first) == math.copysign(1, second)
        ) or first != first != second
    return first == second


def back(value):
    text = json.dumps(encode(value, "value"), allow_nan=False)
    return Decoder(10**6).decode(json.loads(text))


@given(VALUES)
def test_every_value_comes_back(value):
    assert same(back(value), value)


@pytest.mark.parametrize("hold", [str, lambda text: {text: 1}, lambda text: np.array([text]), Path])
def test_a_surrogate_pair_is_refused(hold):
    """Two characters, which JSON would make the one that they stand for; as labels, both may occur."""
    with pytest.raises(PersistenceError, match="has a surrogate pair as two characters"):
        encode(hold("x\ud83d\ude00"), "classes_")


@given(JSON)
def test_any_json_is_a_value_or_an_error(encoded):
    """Errors that `persistence.load` turns into its own; whatever is read can be written."""
    try:
        value = Decoder(10**6).decode(encoded)
    except (PersistenceError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return
    encode(value, "value")


def test_a_random_state_goes_on_where_it_was():
    generator = np.random.RandomState(5)
    generator.normal(size=3)  # an odd number: half of a pair is kept in the state
    again = back(generator)
    assert np.array_equal(again.normal(size=700), generator.normal(size=700))


def test_a_mapped_array_is_an_array(tmp_path):
    """As `joblib.load(..., mmap_mode="r")` gives them."""
    np.save(tmp_path / "classes.npy", np.array(["neg", "pos"]))
    mapped = np.load(tmp_path / "classes.npy", mmap_mode="r")
    assert type(mapped) is np.memmap
    assert type(back(mapped)) is np.ndarray
    assert back(mapped).tolist() == ["neg", "pos"]


class Label(str):
    """A str with more to it."""


@pytest.mark.parametrize(
    "value",
    [
        len,
        lambda estimator, X, y: 0.0,
        {"a", "b"},
        b"bytes",
        1j,
        Label("x"),
        OrderedDict(a=1),
        np.random.default_rng(0),
        np.random.RandomState(np.random.PCG64(0)),
        np.array([b"x"]),
        np.zeros(2, dtype=np.complex64),
        np.zeros(2, dtype=np.longdouble) if np.longdouble(0).itemsize > 8 else 2j,  # Windows has none
        np.zeros(2, dtype=[("a", "f4")]),
        np.ma.masked_array([1, 2], [True, False]),
        np.array([len], dtype=object),
        [{"deep": (1, object())}],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_exact_form_is_refused(value):
    with pytest.raises(PersistenceError, match=r"(?s)^The parameter odd is or holds .* \(type "):
        encode(value, "The parameter odd")


@pytest.mark.parametrize(
    "content",
    [
        {"dtype": "<U999999", "shape": [2], "items": ["a", "b"]},
        {"dtype": "<U1", "shape": [10**12], "items": ["a"]},
        {"dtype": "<f8", "shape": [-1], "items": [1.0]},
        {"dtype": "<f8", "shape": [0, 10**20], "items": [1.0]},
        {"dtype": "|V8", "shape": [1], "items": [1.0]},
    ],
)
def test_arrays_take_no_more_memory_than_they_are_allowed(content):
    with pytest.raises(PersistenceError):
        Decoder(10**6).decode({"$array": content})


def test_the_allowance_is_for_all_arrays_together():
    wide = {"$array": {"dtype": "<U1000", "shape": [1], "items": ["a"]}}
    decoder = Decoder(10_000)
    decoder.decode([wide, wide])
    with pytest.raises(PersistenceError, match="does not fit"):
        decoder.decode(wide)


@pytest.mark.parametrize("dtype", ["M8[ns]", ">M8[D]", "m8[s]", "M8[25us]"])
def test_times(dtype):
    """Labels may be dates."""
    times = np.array([[0, 1], [-(2**62), 2**62]], dtype="i8").astype(dtype)
    for value in (times, times[0], times[0, 1], times[:0]):
        found = back(value)
        assert found.dtype == value.dtype
        assert found.tobytes() == value.tobytes()
    assert np.isnat(back(np.array(["NaT"], dtype="M8[s]")))


def test_an_array_that_lies_column_by_column():
    array = np.asfortranarray(np.arange(6).reshape(2, 3))
    assert same(back(array), array)


def test_subclasses_are_not_taken_for_what_they_derive_from():
    for value in (namedtuple("Pair", "a b")(1, 2), type("Listed", (list,), {})([1])):
        with pytest.raises(PersistenceError, match="is or holds"):
            encode(value, "odd")


@pytest.mark.parametrize("dtype", ["<i4,,", "<i4,<i4", "<U1)", "<f8, (2,)f8"])
def test_types_of_several_fields_are_refused(dtype):
    with pytest.raises(PersistenceError, match="which model files do not use"):
        Decoder(10**6).decode({"$array": {"dtype": dtype, "shape": [0], "items": []}})
