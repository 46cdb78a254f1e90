"""Numbers in y: what is read, how it is standardized, and what is refused."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.preprocessing import StandardScaler

from skbert import InputError
from skbert.data.numbers import are_numbers, known_numbers, number_values, standardize
from skbert.data.outputs import in_units

ONE = np.ones(4)
Y = [1.0, 2.0, 4.0, 9.0]

READ_AS_Y = {
    "list": Y,
    "tuple": tuple(Y),
    "int": [1, 2, 4, 9],
    "float32": np.array(Y, dtype=np.float32),
    "int8": np.array(Y, dtype=np.int8),
    "uint64": np.array(Y, dtype=np.uint64),
    "objects": np.array([1, 2.0, Decimal(4), Fraction(9)], dtype=object),
    "series": pd.Series(Y, index=[3, 1, 2, 0]),
    "Int64": pd.Series([1, 2, 4, 9], dtype="Int64"),
    "Float64": pd.Series(Y, dtype="Float64"),
    "arrow": pd.Series(Y, dtype="double[pyarrow]"),
    "nothing masked": np.ma.masked_array(Y, mask=[False] * 4),
}


@pytest.mark.parametrize("kind", READ_AS_Y)
def test_what_is_read_as_numbers(kind):
    numbers = standardize(READ_AS_Y[kind], ONE)
    assert numbers.given.tolist() == Y
    assert numbers.given.dtype == numbers.targets.dtype == np.float64
    assert numbers.target_type == "continuous"


def test_bools_are_numbers():
    assert standardize([True, False, True, True], ONE).given.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [3, 1, 0, 2]])
def test_standardized_as_by_scikit_learn(weights):
    y, weights = np.random.default_rng(0).normal(5, 3, (4, 3)), np.array(weights, dtype=float)
    scaler = StandardScaler().fit(y, sample_weight=weights)
    numbers = standardize(y, weights)
    np.testing.assert_allclose(numbers.means, scaler.mean_)
    np.testing.assert_allclose(numbers.scales, scaler.scale_)
    np.testing.assert_allclose(numbers.targets, scaler.transform(y))
    assert numbers.target_type == "continuous-multioutput"
    back = in_units(numbers.targets, numbers.means, numbers.scales, numbers.target_type)
    np.testing.assert_allclose(back, y)


def test_a_column_stays_a_column():
    column = np.array(Y)[:, None]
    numbers = standardize(column, ONE)
    assert numbers.values(np.array([1, 3])).tolist() == [[2.0], [9.0]]
    assert in_units(numbers.targets, numbers.means, numbers.scales, numbers.target_type).shape == (4, 1)


@pytest.mark.parametrize("same", [0.0, 0.1, -1e300, 5e-324])
def test_numbers_that_are_all_the_same(same):
    numbers = standardize([same] * 4, np.array([1.0, 2.0, 0.3, 0.1]))
    assert (numbers.means.tolist(), numbers.scales.tolist()) == ([same], [1.0])
    assert not numbers.targets.any()


@pytest.mark.parametrize("unit", [1e-200, 1e-7, 1e200, 1e308])
def test_in_any_unit_the_same_is_learned(unit):
    y = np.array([0.1, 0.2, 0.4, 0.9])
    np.testing.assert_allclose(standardize(y * unit, ONE).targets, standardize(y, ONE).targets, rtol=1e-9)


def test_small_differences_of_large_numbers():
    seconds = 1.7e9 + np.array([0.0, 1.0, 2.0, 5.0])
    numbers = standardize(seconds, ONE)
    np.testing.assert_array_equal(
        in_units(numbers.targets.astype(np.float32), numbers.means, numbers.scales, "continuous").round(),
        seconds,
    )


def test_a_known_mean_and_scale_stay():
    known = known_numbers("continuous", np.array([10.0]), np.array([2.0]))
    assert known.target_type == "continuous"
    numbers = standardize(Y, ONE, known)
    assert numbers.targets[:, 0].tolist() == [-4.5, -4.0, -3.0, -0.5]
    assert numbers.attributes()["target_mean_"] is known.means


REFUSED = {
    "None": (None, "requires y to be passed, but the target y is None"),
    "a string": ("1234", "requires y to be passed"),
    "str": (
        ["1.5", "2", "3", "4"],
        r"y has '1.5' \(type str\) at row 0.*to learn classes, use BertClassifier",
    ),
    "one str": ([1.0, "two", 3, 4], r"y has 'two' \(type str\) at row 1"),
    "one str in rows": ([[1.0, 2], [2, "two"], [3, 4], [4, 5]], r"y has 'two' \(type str\) at row 1"),
    "one str among objects": (
        np.array([1.0, "two", 3, 4], dtype=object),
        r"y has 'two' \(type str\) at row 1",
    ),
    "categories": (pd.Series(["a", "b", "a", "b"], dtype="category"), "at row 0"),
    "days": (np.array(["2020-01-01"] * 4, dtype="M8[D]"), r"2020-01-01.*at row 0"),
    "nanoseconds": (
        pd.Series(pd.to_datetime(["2020-01-01"] * 4)).astype("M8[ns]"),
        r"at row 0, where a number",
    ),
    "durations": (np.array([1, 2, 3, 4], dtype="m8[ns]"), r"timedelta64\) at row 0, where a number"),
    "objects of durations": (
        np.array([1.0, np.timedelta64(3), 2, 3], dtype=object),
        r"timedelta64\) at row 1",
    ),
    "dates of Arrow": (
        pd.Series(pd.to_datetime(["2020-01-01"] * 4)).astype("timestamp[ns][pyarrow]"),
        "row 0",
    ),
    "too large": ([1, 2, 10**400, 3], "at row 2 is too large for float64"),
    "signalling": (np.array([1, Decimal("sNaN"), 2, 3], dtype=object), "cannot be read as numbers|at row 1"),
    "complex": (np.ones(4, dtype=complex), "complex"),
    "nan": ([1.0, 2.0, np.nan, 4.0], r"NaN \(a missing number\) at row 2"),
    "None inside": ([1.0, None, 3.0, 4.0], "at row 1"),
    "NA": (pd.Series([1, 2, 3, pd.NA], dtype="Int64"), "at row 3"),
    "masked": (np.ma.masked_array(Y, mask=[False, True, False, False]), "at row 1"),
    "inf": ([1.0, 2.0, np.inf, 4.0], "contains infinity at row 2"),
    "too few": ([1.0, 2.0, 3.0], r"inconsistent numbers of samples: \[4, 3\]"),
    "a number": (3.0, r"the shape \(\)"),
    "3-D": (np.ones((4, 2, 2)), r"the shape \(4, 2, 2\)"),
    "no column": (np.ones((4, 0)), r"the shape \(4, 0\)"),
    "sparse": (sparse.csr_array(np.ones((4, 2))), "Sparse data was passed"),
    "ragged": ([[1.0], [1.0, 2.0], [3.0], [4.0]], "inhomogeneous|sequence"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_number_is_refused(kind):
    y, match = REFUSED[kind]
    with pytest.raises(InputError, match=match):
        standardize(y, ONE)


def test_numbers_that_the_known_scale_cannot_hold():
    known = known_numbers("continuous", np.array([0.0]), np.array([1e-300]))
    with pytest.raises(InputError, match=r"y is 1e\+300 at row 2"):
        standardize([0.0, 0.0, 1e300, 0.0], ONE, known)


def test_numbers_too_far_for_float32():
    known = known_numbers("continuous", np.array([0.0]), np.array([1.0]))
    with pytest.raises(InputError, match=r"y is 1e\+16 at row 1, too far from the mean to compute with"):
        standardize([0.0, 1e16, 1.0, 2.0], ONE, known)


def test_the_same_up_to_rounding_is_the_same():
    numbers = standardize([0.3, 0.1 + 0.2, 0.3, 0.3], ONE)
    assert numbers.scales.tolist() == [1.0]
    assert abs(numbers.targets).max() < 1e-9


def test_columns_of_a_table_keep_their_places():
    frame = pd.DataFrame({"price": [1.0, 2, 3, 4], "stars": [5.0, 4, 1, 2]})
    numbers = standardize(frame, ONE)
    assert numbers.of_held_out(frame.to_numpy()[:2], 2).tolist() == [[1, 5], [2, 4]]
    with pytest.raises(InputError, match=r"y_val has the columns \['stars', 'price'\], but those of the fit"):
        numbers.of_held_out(frame[["stars", "price"]], 4)


def test_another_form_than_in_the_fit():
    known = known_numbers("continuous", np.zeros(1), np.ones(1))
    with pytest.raises(InputError, match=r"y has the shape \(4, 1\). Expected one number per text"):
        standardize(np.ones((4, 1)), ONE, known)
    pairs = standardize(np.eye(4)[:, :2], ONE)
    with pytest.raises(InputError, match=r"y_val has the shape \(3,\). Expected 2 numbers per text"):
        pairs.of_held_out([1, 2, 3], 3)
    assert pairs.of_held_out([[1, 2]], 1).tolist() == [[1.0, 2.0]]


def test_codes_are_no_numbers():
    assert are_numbers(standardize(Y, ONE).targets)
    assert not are_numbers(np.array([0, 1]))


def test_rows_of_numbers_in_a_column_are_a_matrix_to_be():
    y = pd.Series([np.array([1.0, 2.0]), np.array([3.0, 4.0])])
    with pytest.raises(InputError, match=r"at row 0, .*pass np\.stack\(y\)"):
        standardize(y, np.ones(2), None)
    assert standardize(np.stack(y), np.ones(2), None).n_outputs == 2


def test_numbers_without_weight_have_no_part_in_mean_and_scale():
    numbers = standardize([5.0, 3.0, 3.0, 3.0], np.array([0.0, 1.0, 1.0, 1.0]))
    assert (numbers.means.tolist(), numbers.scales.tolist()) == ([3.0], [1.0])


def test_small_differences_of_larger_numbers():
    numbers = standardize(1.7e12 + np.array([0.0, 1.0, 2.0, 5.0]), ONE)  # milliseconds
    assert numbers.scales[0] == pytest.approx(np.std([0.0, 1.0, 2.0, 5.0]), rel=1e-3)


def test_numbers_lie_row_by_row_and_are_a_copy():
    """The last bits of a scorer's sums depend on where numbers lie; the fit must not see later changes."""
    table = np.asfortranarray(np.arange(6.0).reshape(3, 2))
    found = number_values(table, 3, "y_val")
    assert found.flags.c_contiguous
    table[:] = 0
    assert found.tolist() == [[0, 1], [2, 3], [4, 5]]
