"""Containers of other libraries: their values, as they are."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skbert.data.containers import as_array, names_in
from skbert.data.fit_data import check_groups
from skbert.data.inputs import check_texts
from skbert.data.targets import label_values

TEXTS = ["a\0", "a", "b"]


@pytest.mark.parametrize("kind", [pl.Series, pd.Series, pd.array, list], ids=lambda kind: kind.__module__)
def test_nul_at_the_end_is_kept(kind):
    """numpy's own dtype for str drops it: two texts, labels or groups would become one."""
    values = kind(TEXTS)
    assert check_texts(values).first == TEXTS
    assert label_values(values).tolist() == TEXTS
    assert check_groups(values, 3).tolist() == [0, 1, 2]


def test_labels_have_the_dtype_of_their_container():
    assert label_values(pd.Index(["b", "a"], dtype=object)).dtype == object
    assert label_values(pl.Series(["b", "a"])).dtype.kind == "U"


def test_one_long_text_takes_its_own_memory_only():
    """As an array of numpy's dtype for str, it would be 400 GB."""
    texts = ["short"] * 100_000 + ["long " * 200_000]
    assert check_texts(pl.Series(texts)).first == texts


def test_an_array_protocol_without_dtype():
    class Column:
        def __array__(self):
            return np.array(["good film", "bad film"])

    assert as_array(Column()).tolist() == check_texts(Column()).first == ["good film", "bad film"]


def test_arrays_stay():
    array = np.array([1, 2])
    assert as_array(array) is array


def test_names_of_columns_that_are_called_as_attributes_of_other_tables():
    assert names_in(pd.DataFrame({"column_names": ["x"], "b": ["y"]})) == ["column_names", "b"]
    assert names_in(pd.Series(["x"], index=["columns"])) == []
