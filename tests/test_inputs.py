"""Every container becomes the same texts; every bad cell is named."""

import collections
import collections.abc

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from skbert import InputError, InputTypeError
from skbert.data.inputs import Texts, check_same_n_columns, check_texts, unique_texts

A = ["one", "", "  ", "é😀"]
B = ["uno", "dos", "", "x"]


class ArrayLike:
    """Something that only numpy.asarray can read."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype or object)


class SequenceAndArray(ArrayLike):
    """A sequence of neither list nor array type, with `__array__`."""

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return self.values[index]


ARROW = pd.ArrowDtype(pa.string())
SINGLES = {
    "list": A,
    "tuple": tuple(A),
    "object array": np.array(A, dtype=object),
    "str array": np.array(A),
    "column array": np.array(A, dtype=object)[:, None],
    "reversed view": np.array(A[::-1], dtype=object)[::-1],
    "Series": pd.Series(A, index=[5, 5, 1, 2]),
    **{
        f"Series {dtype}": pd.Series(A, dtype=dtype, index=range(7, 11))
        for dtype in (object, "str", "string", "string[python]", "string[pyarrow]", "category", ARROW)
    },
    "Series large arrow": pd.Series(A, dtype=pd.ArrowDtype(pa.large_string())),
    "DataFrame": pd.DataFrame({"text": A}),
    "DataFrame without a name": pd.DataFrame(A),
    "DataFrame of arrow": pd.DataFrame({"text": A}).convert_dtypes(dtype_backend="pyarrow"),
    "DataFrame of categories": pd.DataFrame({"text": A}, dtype="category"),
    "pandas array": pd.array(A, dtype="string"),
    "Categorical": pd.Categorical(A),
    "arrow array": pa.array(A),
    "arrow chunks": pa.chunked_array([A[:2], A[2:]]),
    "arrow dictionary": pa.array(A).dictionary_encode(),
    "Index": pd.Index(A),
    "__array__": ArrayLike(A),
    "sequence with __array__": SequenceAndArray(A),
    "list of 1-tuples": [(a,) for a in A],
    "StringDType": np.array(A, dtype=np.dtypes.StringDType()),
    "UserList": collections.UserList(A),
    "deque": collections.deque(A),
}
ROWS = list(zip(A, B, strict=True))
PAIRS = {
    "list of tuples": ROWS,
    "list of lists": [list(pair) for pair in ROWS],
    "tuple of tuples": tuple(ROWS),
    "array": np.array([A, B], dtype=object).T,
    "str array": np.array(ROWS),
    "fortran array": np.asfortranarray(np.array(ROWS, dtype=object)),
    "DataFrame": pd.DataFrame({"a": A, "b": B}),
    "DataFrame of numbers as names": pd.DataFrame(ROWS, index=range(5, 9)),
    "DataFrame of arrow": pd.DataFrame(ROWS).convert_dtypes(dtype_backend="pyarrow"),
    "DataFrame mixed dtypes": pd.DataFrame({"a": pd.Categorical(A), "b": pd.Series(B, dtype="string")}),
    "__array__": SequenceAndArray(ROWS),
}


@pytest.mark.parametrize("kind", SINGLES)
def test_single_texts(kind):
    texts = check_texts(SINGLES[kind])
    assert texts == Texts(A)
    assert {type(t) for t in texts.first} == {str}
    assert texts.n_columns == 1


def test_texts_of_another_class_are_taken_as_they_are():
    assert check_texts([np.str_(a) for a in A]) == Texts(A)


@pytest.mark.parametrize("kind", PAIRS)
def test_pairs(kind):
    texts = check_texts(PAIRS[kind])
    assert texts == Texts(A, B)
    assert texts.n_columns == 2


def test_rows_may_be_arrays():
    rows = list(np.array([["a", "b"], ["c", "d"]], dtype=object))
    assert check_texts(rows) == Texts(["a", "c"], ["b", "d"])


@pytest.mark.parametrize(
    "cell", [None, float("nan"), pd.NA, pd.NaT, 3, 2.5, b"bytes", ["a", "b"], ("a",), {"a": 1}, np.float64(1)]
)
@pytest.mark.parametrize("container", [list, lambda c: np.array([*c, None], dtype=object)[:-1], pd.Series])
def test_bad_cell_is_named_with_its_row(cell, container):
    with pytest.raises(InputTypeError, match="row 2") as caught:
        check_texts(container(["a", "b", cell, "d"]))
    stored_as_nan = (
        (cell is None or cell is pd.NA) and container is pd.Series and pd.Series(["a"]).dtype != object
    )  # pandas >= 3 keeps no None in a column of str
    assert ("float" if stored_as_nan else type(cell).__name__) in str(caught.value)


def test_bad_cell_of_a_pair_is_named_with_row_and_column():
    with pytest.raises(InputTypeError, match="row 1, column 1"):
        check_texts([("a", "b"), ("c", None)])


def test_a_bad_cell_that_cannot_be_shown_is_named_all_the_same():
    class Unspeakable:
        def __repr__(self):
            raise RuntimeError("no")

    with pytest.raises(InputTypeError, match=r"type Unspeakable\) at row 1"):
        check_texts(["a", Unspeakable()])


def test_the_remedy_is_for_what_was_passed():
    table = pd.DataFrame({"text": ["a", "b"], "length": [1, 1]})
    with pytest.raises(InputTypeError, match=r"row 0, column 1.*X\['text'\].*ColumnTransformer"):
        check_texts(table)
    with pytest.raises(InputTypeError, match=r"row 0, .*\[row\['text'\] for row in X\]"):
        check_texts([{"text": "a"}, {"text": "b"}])
    with pytest.raises(InputTypeError, match=r"row 1.* replaced first\.$"):
        check_texts(["a", None])
    with pytest.raises(InputTypeError, match=r"row 1.*fill_null\(''\)"):
        check_texts(pl.Series(["a", None]))
    with pytest.raises(InputTypeError, match=r"dict\..*X\['text'\]"):
        check_texts({"text": ["a", "b"]})
    with pytest.raises(InputError, match=r"3 columns.*of its columns, \['text', 'length', 'id'\], pass"):
        check_texts(table.assign(id=1))
    with pytest.raises(InputError, match=r"3 columns.*pass list\(zip\(\*X\)\)\.$"):
        check_texts((["a", "b", "c"], ["d", "e", "f"]))
    with pytest.raises(InputError, match=r"3 columns.*labels are passed as y_val"):
        check_texts((["a", "b", "c"], [0, 1, 0]), "X_val")


def test_masked_cell_is_missing():
    with pytest.raises(InputTypeError, match="row 1"):
        check_texts(np.ma.array(["a", "b"], mask=[False, True]))


def test_missing_value_in_a_nullable_column():
    with pytest.raises(InputTypeError, match=r"row 1.*fillna"):
        check_texts(pd.Series(["a", pd.NA], dtype="string"))


def test_streams_of_arrow_are_told_from_iterators():
    table = pa.table({"text": ["a", "b"]})
    with pytest.raises(InputTypeError, match=r"from a stream pass X\.read_all\(\)\['text'\]"):
        check_texts(table.to_reader())
    check_texts(table.to_reader().read_all()["text"])
    with pytest.raises(InputTypeError, match=r"for an iterator pass list\(X\)"):
        check_texts(iter(["a", "b"]))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"text": "a", "text_pair": "b"},
            r"pairs with \[\(row\['text'\], row\['text_pair'\]\) for row in X\]",
        ),
        (
            {"label": "pos", "text_pair": "b", "id": "7", "text": "a"},
            r"pairs with \[\(row\['text'\], row\['text_pair'\]\) for row in X\]",
        ),
        ({"id": "7", "text": "a", "label": "pos"}, r"with \[row\['text'\] for row in X\]"),
        ({"id": "7", "sentence": "a", "label": "pos"}, r"with \[row\['sentence'\] for row in X\]"),
        ({"sentence": "a", "label": 1}, r"with \[row\['sentence'\] for row in X\]"),
        (
            {"idx": "7", "premise": "a", "hypothesis": "b"},
            r"pairs with \[\(row\['premise'\], row\['hypothesis'\]\) for row in X\]",
        ),
        ({"n": 1}, r"with \[row\['text'\] for row in X\]"),
    ],
)
def test_rows_that_are_dicts(row, said):
    with pytest.raises(InputTypeError, match=said):
        check_texts([row, row])


@pytest.mark.parametrize(
    ("X", "said"),
    [
        ("one text", r"\[text\]"),
        (b"bytes", "bytes"),
        (None, "NoneType"),
        (7, "int"),
        ({"a": "b"}, "dict"),
        ({"a"}, "set"),
        (iter(["a"]), r"list\(X\)"),
    ],
)
def test_not_a_collection_of_texts(X, said):
    with pytest.raises(InputTypeError, match=said):
        check_texts(X)


@pytest.mark.parametrize(
    "X", [[], (), np.array([], dtype=str), pd.Series([], dtype=object), np.empty((0, 2), object)]
)
def test_empty(X):
    with pytest.raises(InputError, match="empty"):
        check_texts(X)


@pytest.mark.parametrize("X", [np.full((2, 3), "a"), pd.DataFrame([["a"] * 4] * 2), [("a", "b", "c")]])
def test_more_than_two_columns(X):
    with pytest.raises(InputError, match=r"[34] columns"):
        check_texts(X)


class Lazy(collections.abc.Sequence):
    """Reads its rows from somewhere, as a column of Hugging Face's datasets does."""

    def __init__(self, rows):
        self.rows, self.reads = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        self.reads += 1
        return self.rows[place]


def test_a_sequence_is_read_in_one_slice():
    lazy = Lazy(["a", "b", "c"])
    assert check_texts(lazy).first == ["a", "b", "c"]
    assert lazy.reads == 1
    assert check_texts(collections.deque(["a", "b"])).first == ["a", "b"]


def test_frames_that_are_not_pandas_own():
    frames = pytest.importorskip("dask.dataframe")
    table = pd.DataFrame({"question": ["a", "b", "c"], "answer": ["d", "e", "f"]})
    for X in (table, table["question"]):
        assert check_texts(frames.from_pandas(X, npartitions=2)) == check_texts(X)


def test_other_dimensions():
    with pytest.raises(InputError, match="dim 3"):
        check_texts(np.full((2, 2, 2), "a"))
    with pytest.raises(InputError, match="0-dimensional"):
        check_texts(np.array("a"))


def test_rows_of_different_form():
    with pytest.raises(InputTypeError, match="Row 1"):
        check_texts([("a", "b"), ("c",)])
    with pytest.raises(InputTypeError, match="Row 2"):
        check_texts([("a", "b"), ("c", "d"), "ef"])


def test_sparse_is_refused():
    with pytest.raises(InputTypeError, match="sparse"):
        check_texts(sparse.csr_matrix((3, 2)))


def test_same_n_columns():
    check_same_n_columns(Texts(A), 1, "BertClassifier")
    with pytest.raises(InputError, match="X has 2 features, but BertClassifier is expecting 1"):
        check_same_n_columns(Texts(A, B), 1, "BertClassifier")


@given(st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1), st.booleans())
def test_unique_texts_give_the_rows_back(rows, pairs):
    texts = Texts(rows, rows[::-1] if pairs else None)
    unique, inverse = unique_texts(texts)
    assert unique.take(inverse) == texts
    assert len(set(unique.rows)) == len(unique.rows) == len(set(texts.rows))


def test_arrays_without_dimensions_are_cells():
    with pytest.raises(InputTypeError, match=r"type ndarray\) at row 0"):
        check_texts([np.array("a"), np.array("b")])


class Table:
    """As datasets.Dataset: rows are dicts."""

    column_names = ("text",)

    def __iter__(self):
        yield {"text": "a"}


def test_of_a_table_a_column_is_to_be_passed():
    with pytest.raises(InputTypeError, match=r"from a table pass a column, such as X\['text'\]"):
        check_texts(Table())


FIRST, SECOND = pd.Series(["a", "b", "c"]), pd.Series(["x", "y", "z"])


@pytest.mark.parametrize("kind", [tuple, list])
def test_two_columns_of_texts_are_to_be_zipped(kind):
    X = kind([FIRST, SECOND])
    with pytest.raises(InputTypeError, match=r"two columns of texts are passed as list\(zip\(\*X\)\)"):
        check_texts(X)
    assert len(check_texts(list(zip(*X, strict=True)))) == 3
    named = {"first": FIRST, "second": SECOND}
    with pytest.raises(InputTypeError, match=r"for pairs list\(zip\(X\['first'\], X\['second'\]\)\)"):
        check_texts(named)


@pytest.mark.parametrize("X", [{"a"}, frozenset("a")])
def test_what_has_no_order_of_rows_is_not_to_be_listed(X):
    with pytest.raises(InputTypeError, match=f"{type(X).__name__}, which has no order of rows"):
        check_texts(X)


def test_of_three_columns_one_with_texts_is_named():
    table = pd.DataFrame({"id": [1, 2], "subject": ["a", "b"], "body": ["c", "d"]})
    with pytest.raises(InputError, match=r"such as X\['subject'\], or two columns \(more can be joined"):
        check_texts(table)


def test_missing_categories_have_a_remedy_that_works():
    texts = pd.Series(["a", None, "b"], dtype="category")
    with pytest.raises(InputTypeError, match=r"for example with X\.astype\(object\)\.fillna\(''\)"):
        check_texts(texts)
    assert check_texts(texts.astype(object).fillna("")).first == ["a", "", "b"]


def test_lists_of_tokens_are_recognized():
    with pytest.raises(
        InputTypeError, match=r"join lists of tokens first: \[' '\.join\(row\) for row in X\]"
    ):
        check_texts([["a", "fine", "film"], ["dull"]])
    with pytest.raises(InputTypeError, match="all rows must have the same form"):
        check_texts([["a", "fine"], "dull"])


def test_a_table_of_numbers_alone_is_said_to_hold_no_text():
    with pytest.raises(InputError, match=r"has 3 columns.*the first row of X holds no text"):
        check_texts(np.zeros((4, 3)))


@pytest.mark.parametrize("word", ["columns", "toarray", "ndim"])
def test_an_index_of_words_is_no_attribute(word):
    """pandas gives what an index names, or a column, as an attribute."""
    assert check_texts(pd.Series(["one", "two"], index=[word, "of"])).first == ["one", "two"]
    assert check_texts(pd.DataFrame({word: ["one", "two"]})).first == ["one", "two"]


def test_missing_categories_of_a_table_have_a_remedy_that_works():
    table = pd.DataFrame({"text": ["a", None]}).astype("category")
    with pytest.raises(InputTypeError, match=r"for example with X\.astype\(object\)\.fillna\(''\)"):
        check_texts(table)
    assert check_texts(table.astype(object).fillna("")).first == ["a", ""]
