"""Rows of different lengths end to end, against a loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skbert.ragged import end_to_end, offsets_of, ragged_arange, runs


@pytest.mark.parametrize("lengths", [[], [0], [3], [2, 0, 5, 1], np.array([4, 4], dtype=np.int32)])
def test_offsets(lengths):
    offsets = offsets_of(lengths)
    assert offsets.dtype == np.int64 or len(lengths) == 0
    assert offsets.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]


def test_rows_end_to_end():
    rows = [np.array([1, 2]), np.array([], dtype=np.int64), np.array([3])]
    values, offsets = end_to_end(rows)
    assert values.tolist() == [1, 2, 3]
    for row, begin, end in zip(rows, offsets, offsets[1:], strict=False):
        assert values[begin:end].tolist() == row.tolist()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=20))
def test_ragged_arange_equals_a_loop(rows):
    starts = np.array([s for s, _ in rows], dtype=np.int64)
    lengths = np.array([n for _, n in rows], dtype=np.int64)
    expected = [i for s, n in rows for i in range(s, s + n)]
    assert ragged_arange(starts, lengths).tolist() == expected


@pytest.mark.parametrize(
    ("values", "firsts", "counts"),
    [([], [], []), ([4], [0], [1]), ([0, 0, 3, 3, 3, 0], [0, 2, 5], [2, 3, 1])],
)
def test_runs_of_equal_neighbours(values, firsts, counts):
    found = runs(np.array(values, dtype=np.int64))
    assert [part.tolist() for part in found] == [firsts, counts]
