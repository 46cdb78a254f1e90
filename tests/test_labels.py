"""Labels against scikit-learn's own results."""

import collections
import datetime
import re
from array import array
from decimal import Decimal
from enum import Enum

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_array, csr_matrix
from sklearn.exceptions import DataConversionWarning

from skbert import InputError, SkbertWarning
from skbert.data.labels import (
    check_same_classes,
    encode_known_labels,
    encode_labels,
    known_labels,
)
from skbert.data.targets import label_values
from skbert.data.weights import check_weights

KINDS = {
    "str": ["b", "a", "c", "a"],
    "int": [3, -1, 7, -1],
    "bool": [True, False, True, True],
    "numpy str": np.array(["b", "a", "c", "a"]),
    "float that are ints": [1.0, 2.0, 1.0, 3.0],
    "Categorical": pd.Series(["b", "a", "c", "a"], dtype=pd.CategoricalDtype(["c", "b", "a", "unused"])),
    "bare Categorical": pd.Categorical(["b", "a", "c", "a"]),
    "string dtype": pd.Series(["b", "a", "c", "a"], dtype="string"),
    "Int64": pd.Series([3, -1, 7, -1], dtype="Int64"),
    "boolean": pd.Series([True, False, True, True], dtype="boolean"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_classes_and_codes_as_np_unique(kind):
    labels = encode_labels(KINDS[kind], 4)
    plain = np.asarray(list(KINDS[kind]))
    classes, codes = np.unique(plain, return_inverse=True)
    assert labels.classes.tolist() == classes.tolist()
    assert labels.codes.tolist() == codes.tolist()
    assert labels.target_type == ("binary" if len(classes) == 2 else "multiclass")
    assert labels.n_outputs == len(classes)


FORMS = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "series": lambda y: pd.Series(y, index=range(50, 50 + len(y))),
    "categorical": pd.Categorical,
    "categorical series": lambda y: pd.Series(y, dtype="category"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "values", [["b", "a", "ä"], [3, -1, 20], [True, False, True], [2.0, 1.0, 0.0], ["x" * 200, "y", "z"]]
)
def test_labels_in_any_form_are_the_same(values, form):
    labels, expected = encode_labels(FORMS[form](values), 3), encode_labels(values, 3)
    assert labels.classes.tolist() == expected.classes.tolist()
    assert labels.codes.tolist() == expected.codes.tolist()
    if "categorical" not in form and form != "series":
        assert labels.classes.dtype == expected.classes.dtype


@pytest.mark.parametrize("container", [list, tuple])
def test_labels_of_a_list_keep_a_nul_at_their_end(container):
    labels = encode_labels(container(["a\0", "a", "b"]), 3)
    assert labels.classes.tolist() == ["a", "a\0", "b"]
    assert labels.codes.tolist() == [1, 0, 2]


def test_many_different_str_are_no_numbers_to_regress_on():
    labels = encode_labels([f"intent {i}" for i in range(40)], 40)  # a warning would be an error
    assert labels.n_outputs == 40


def test_labels_of_numpys_string_dtype():
    labels = encode_labels(np.array(["b", "a", "b"], dtype=np.dtypes.StringDType()), 3)
    assert labels.classes.tolist() == ["a", "b"]
    assert labels.codes.tolist() == [1, 0, 1]


def test_a_thousand_classes():
    labels = encode_labels(np.arange(2000) % 1000, 2000)
    assert labels.n_outputs == 1000
    assert labels.codes[1500] == 500


def test_column_vector_is_taken_with_scikit_learns_warning():
    with pytest.warns(DataConversionWarning) as caught:
        assert encode_labels(np.array([[0], [1]]), 2).codes.tolist() == [0, 1]
    assert caught[0].filename == __file__
    with pytest.warns(DataConversionWarning):
        assert encode_labels(csr_matrix([[0], [1]]), 2).codes.tolist() == [0, 1]


def test_the_first_call_of_partial_fit_warns_once_of_a_column_vector(make_classifier):
    with pytest.warns(DataConversionWarning) as caught:
        model = make_classifier(epochs=1).partial_fit(["a b", "c d"], [["x"], ["y"]], classes=["x", "y"])
    assert [warning.category for warning in caught] == [DataConversionWarning]
    assert model.classes_.tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (None, "requires y"),
        (["a", "a"], "greater than one; got 1 class"),
        (["a", "b", "c"], r"inconsistent numbers of samples: \[2, 3\]"),
        (["a", None], "row 1"),
        ([0.0, float("nan")], "row 1"),
        (["a", float("nan")], "NaN .* at row 1"),
        (("a", pd.NaT), "NaN .* at row 1"),
        ([datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)], r"type date, such as '2026-01-01' at row 0"),
        ([Decimal("1.5"), Decimal("2")], r"type Decimal.*\[str\(label\) for label in y\]"),
        (pd.cut([1, 2], 2), "type Interval"),
        (np.array([0, 1], dtype=object), r"Python objects, such as 0 at row 0.* y\.astype\(int\)"),
        (pd.Series([True, False], dtype=object), r"such as True at row 0.* y\.astype\(bool\)"),
        (np.array([1.5, 2], dtype=object), r"such as 1\.5 at row 0.* y\.astype\(float\)"),
        (pd.Series(["a", pd.NA], dtype="string"), "row 1"),
        (["a", 1], "mixes str .*first 1 at row 1"),
        (np.array(["a", 1], dtype=object), "mixes str"),
        (pd.Series(["a", 1], dtype=object), "mixes str"),
        (np.array([[0, 1], ["1", 0]], dtype=object), "the str '1' at row 1, column 0, beside"),
        (torch.tensor([0.0, 1.0], requires_grad=True), "requires grad"),
        ([0.0, 1.7], "continuous.* 1.7 at row 1"),
        ([0.0, 1e20], "too large for an int: 1e\\+20 at row 1"),
        (np.array([[0, 1], [0, 1]]), "same for all 2 texts"),
        (np.array([[0, 1], [1, 2]]), r"2-D target \(multiclass-multioutput: 2 at row 1, column 1\)"),
        (pd.DataFrame({"a": [0, 1, 1], "b": [1, 3, 0]}), "3 at row 1, column 'b'"),
        (pd.DataFrame({"a": [0, 1, 1], "b": [1, 3, 0]}, dtype="Int64"), "3 at row 1, column 'b'"),
        (np.array([1 + np.longdouble(2) ** -60, 2]), "not whole.* 1 at row 0"),
        (np.array([[5, 6], [7, 8]]), r"2-D target \(multiclass-multioutput\)"),
        (np.array([[-1, 1], [1, -1]]), r"values \[-1, 1\].*0 and 1"),
        (csr_array([[0, 2], [2, 2]]), r"values \[0, 2\].*0 and 1"),
        (np.array([[1.0, 0.0], [np.nan, 1.0]]), "NaN .* at row 1"),
        (np.array([[1.0, 0.0], [np.inf, 1.0]]), "infinity at row 1"),
        ([["a", "b"], ["b"]], r"list, .*\['a', 'b'\].*MultiLabelBinarizer"),
        ([{"a"}, {"b"}], "set, .*MultiLabelBinarizer"),
        (pd.DataFrame([[1, 0], [pd.NA, 1]]).astype("Int64"), "NaN .* at row 1"),
        (np.array([["a", "b"], ["b", "c"]], dtype=object), "2-D.*MultiLabelBinarizer"),
        (pd.Series([("a", "b"), ()]), "tuple, .*MultiLabelBinarizer"),
        (pd.Series([np.array([1, 0]), np.array([0, 1])]), r"ndarray, .*pass np\.stack\(y\)"),
        (pd.Series([["a", "b"], ["b", "c"]]), "list, .*MultiLabelBinarizer"),
    ],
)
def test_bad_labels(y, said):
    with pytest.raises(InputError, match=said):
        encode_labels(y, 2)


def test_lists_of_labels_in_an_arrow_array():
    """The advice was to take each list as one label: [str(label) for label in y]."""
    for rows in ([["a", "b"], ["b"]], [[1, 0], [0, 1]]):
        with pytest.raises(InputError, match=r"the labels of each text as a .*MultiLabelBinarizer"):
            encode_labels(pa.array(rows), 2)


def test_labels_of_each_text_in_a_dict():
    y = [{"good": 1.0, "bad": 0.0}, {"good": 0.0, "bad": 1.0}]
    for given in (y, pd.Series(y)):
        with pytest.raises(InputError, match=r"type dict.*max\(row, key=row\.get\) for row in y") as caught:
            encode_labels(given, 2)
        assert encode_labels([max(row, key=row.get) for row in given], 2).classes.tolist() == ["bad", "good"]
        assert "pd.DataFrame(list(y)).fillna(0)" in str(caught.value)
        assert encode_labels(pd.DataFrame(list(given)).fillna(0), 2).codes.tolist() == [[1, 0], [0, 1]]
    sparse = [{"good": 1}, {"bad": 1}]
    assert encode_labels(pd.DataFrame(list(sparse)).fillna(0), 2).codes.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("row", [{"label": 1}, {"score": 0.9, "label": "good"}, {"label": "a", "by": "b"}])
def test_a_label_in_each_dict(row):
    with pytest.raises(InputError, match=r"\[row\['label'\] for row in y\]"):
        encode_labels([row, row], 2)


INDICATOR = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize(
    "make",
    [
        np.array,
        list,
        csr_matrix,
        csr_array,
        lambda y: y.astype(bool),
        lambda y: y.astype(object),
        lambda y: pd.DataFrame(y),
        lambda y: pd.DataFrame(y).astype("Int64"),
        lambda y: pd.DataFrame(y).astype("boolean"),
    ],
)
def test_indicator_matrices(make):
    labels = encode_labels(make(INDICATOR), 4)
    assert labels.target_type == "multilabel-indicator"
    assert labels.codes.tolist() == INDICATOR.tolist()
    assert labels.classes.tolist() == [0, 1, 2]
    assert labels.values(np.array([1])).tolist() == [[0, 1, 0]]


def test_a_label_that_never_occurs_is_said():
    with pytest.warns(SkbertWarning, match=r"columns \[1\] of y never occur"):
        labels = encode_labels(INDICATOR * [1, 0, 1], 4)
    assert labels.codes.tolist() == (INDICATOR * [1, 0, 1]).tolist()
    with pytest.warns(SkbertWarning, match=r"columns \[3, 4, 5, 6, 7\] and 4 more of y never occur"):
        encode_labels(np.hstack([INDICATOR, np.zeros((4, 9), int)]), 4)


def test_columns_of_a_dataframe_name_the_labels():
    y = pd.DataFrame(INDICATOR, columns=["refund", "card", "hello"])
    labels = encode_labels(y, 4)
    assert labels.classes.tolist() == ["refund", "card", "hello"]
    assert labels.codes.tolist() == INDICATOR.tolist()
    with pytest.warns(SkbertWarning, match=r"columns \['card'\] of y never occur"):
        encode_labels(y * [1, 0, 1], 4)
    for other in (y[["card", "refund", "hello"]], y.rename(columns={"hello": "bye"})):
        with pytest.raises(InputError, match=r"y has the columns .* those of the fit are \['refund', 'card'"):
            encode_known_labels(other, 4, labels)
        with pytest.raises(
            InputError, match=r"y_val has the columns .* Pass the same columns in the same order"
        ):
            labels.of_held_out(other, 4)
    many = pd.DataFrame(np.eye(14, dtype=int), columns=[f"L{n:02}" for n in range(14)])
    turned = many[[*many.columns[:11], "L12", "L11", "L13"]]
    with pytest.raises(InputError, match=r"'L09'\] and 4 more \(the first difference: 'L12', not 'L11'\)"):
        encode_known_labels(turned, 14, encode_labels(many, 14))
    # An array has no names to compare.
    assert encode_known_labels(INDICATOR, 4, labels).classes.tolist() == labels.classes.tolist()
    assert labels.of_held_out(y, 4).tolist() == INDICATOR.tolist()
    assert known_labels(["card", "hello", "refund"], y).classes.tolist() == labels.classes.tolist()
    with pytest.raises(InputError, match=r"with the columns \['refund', .* Leave classes out"):
        known_labels(["card", "hello"], y)


def test_whole_numbers_name_the_labels_too():
    """As those of `pd.get_dummies` for numbers of tags."""
    y = pd.DataFrame(INDICATOR, columns=[3, 1, 2])
    labels = encode_labels(y, 4)
    assert labels.classes.tolist() == [3, 1, 2]
    weights = check_weights(labels, None, {1: 5})[1]
    assert weights.tolist() == [1, 5, 1]
    for other in (y[[1, 2, 3]], y.set_axis([0, 1, 3], axis=1)):
        with pytest.raises(InputError, match=r"those of the fit are \[3, 1, 2\]"):
            encode_known_labels(other, 4, labels)
    # A table from a file has str.
    assert encode_known_labels(y.set_axis(["3", "1", "2"], axis=1), 4, labels).classes.tolist() == [3, 1, 2]
    assert encode_known_labels(INDICATOR, 4, labels).classes.tolist() == [3, 1, 2]


def test_numbered_columns_in_another_order_are_refused():
    """They would be taken by their places, and what is scored would be another label."""
    y = pd.DataFrame(INDICATOR)
    numbered, turned = encode_labels(y, 4), encode_labels(y[[2, 0, 1]], 4)
    assert (numbered.names, turned.names.tolist()) == (None, [2, 0, 1])
    for other, labels in (
        (y[[2, 0, 1]], numbered),
        (y, turned),
        (y.set_axis(["2", "0", "1"], axis=1), numbered),
        (y.set_axis(["0", "1", "2"], axis=1), turned),
    ):
        with pytest.raises(InputError, match="Pass the same columns in the same order"):
            encode_known_labels(other, 4, labels)
    assert (
        encode_known_labels(y.set_axis([7, 8, 9], axis=1), 4, numbered).codes.tolist() == INDICATOR.tolist()
    )
    assert encode_known_labels(y.to_numpy(), 4, turned).codes.tolist() == INDICATOR.tolist()


def test_columns_of_several_types_keep_their_places():
    y = pd.DataFrame(INDICATOR, columns=["1", 0, 2])
    labels = encode_labels(y, 4)
    assert encode_known_labels(y, 4, labels).codes.tolist() == INDICATOR.tolist()


def test_a_column_may_be_called_as_a_method_of_dask():
    y = pd.DataFrame(INDICATOR, columns=["compute", "storage", "__dask_graph__"])
    assert encode_labels(y, 4).classes.tolist() == ["compute", "storage", "__dask_graph__"]
    assert label_values(pd.Series(["a", "b"], index=["compute", "b"])).tolist() == ["a", "b"]


@pytest.mark.filterwarnings("error")
def test_names_of_columns_are_no_labels():
    """Many different ones are no sign of a regression, and large ones no labels that are not whole."""
    y = np.tile(np.eye(30, dtype=int), (2, 1))
    names = range(1990, 2020)
    assert encode_labels(pd.DataFrame(y, columns=names), 60).classes.tolist() == [*names]
    large = pd.DataFrame(INDICATOR, columns=[2**63 + 1, 2**64, 7])
    assert encode_labels(large, 4).classes.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "columns", [[0, 1, 2], [True, False, 2], [0.5, 1.5, 2.5], ["a", "b", 2], pd.date_range("2026", periods=3)]
)
def test_columns_without_names_are_numbered(columns):
    y = pd.DataFrame(INDICATOR, columns=columns)
    assert encode_labels(y, 4).classes.tolist() == [0, 1, 2]
    assert encode_known_labels(y, 4, encode_labels(INDICATOR, 4)).codes.tolist() == INDICATOR.tolist()


def test_validation_labels_that_are_no_indicator():
    labels = encode_labels(INDICATOR, 4)
    with pytest.raises(InputError, match=r"y_val is a matrix of the values \[-1, 1\]"):
        labels.of_held_out(INDICATOR * 2 - 1, 4)


def test_validation_labels_of_another_form():
    with pytest.raises(InputError, match="shape"):
        encode_labels(INDICATOR, 4).of_held_out([0, 1], 2)
    with pytest.raises(InputError, match="shape"):
        encode_labels(["a", "b"], 2).of_held_out(INDICATOR[:2], 2)


BIG = 2**53
OTHER_LABELS = {
    "str for numbers": (list(range(20)), ["1", "2", "10"], r"not: \['1', '10', '2'\]"),
    "numbers for str": ([str(n) for n in range(20)], [1, 2, 10], r"not: \[1, 2, 10\]"),
    "objects of str": (list(range(20)), np.array(["1", "10"], dtype=object), r"not: \['1', '10'\]"),
    "dates for str": (["2020-01-01", "2020-01-02"], pd.to_datetime(["2020-01-01"]), "not: "),
    "large floats": ([BIG + 1, BIG + 3], [float(BIG)], r"not: \[9007199254740992\.0\]"),
    "larger than a day": (
        np.array(["2020-01-01", "2021-01-01"], "M8[D]"),
        pd.to_datetime(["2020-01-01T01"]),
        "not",
    ),
    "nanoseconds for dates": (
        np.array(["2020-01-01", "2021-01-01"], "M8[ns]"),
        np.array(["2020-01-01"], "M8[ns]").astype(np.int64),
        "not",
    ),
    "dates for nanoseconds": ([0, 1], np.array([0, 1], "M8[ns]"), "not"),
    "times for dates": (np.array([0, 1], "M8[ns]"), np.array([0, 1], "m8[ns]"), "not"),
    "beyond 2262": (
        np.array(["2020-01-01", "3020-01-01"], "M8[D]"),
        np.array(["2435-06-11"], "M8[D]"),
        "not",
    ),
}


@pytest.mark.parametrize("kind", OTHER_LABELS)
def test_labels_that_only_a_common_dtype_makes_equal_are_no_labels_of_the_model(kind):
    """From ten classes on numpy compares numbers and str as str, among which 10 is before 2."""
    classes, y, said = OTHER_LABELS[kind]
    known = encode_labels(classes, len(classes))
    with pytest.raises(InputError, match=f"y has classes that the model does {said}"):
        encode_known_labels(y, len(y), known)
    with pytest.raises(InputError, match=f"y_val has classes that y does {said}"):
        known.of_held_out(y, len(y))


@pytest.mark.parametrize(
    ("classes", "y"),
    [
        ([0, 1, 2], [2.0, 0.0]),
        ([0, 1], [True, False]),
        (["a", "b"], pd.Series(["b", "a"], dtype="category")),
        (["a", "b"], pd.array(["b", "a"], dtype="string")),
        (np.array(["2020-01-01", "2020-01-02"], "M8[D]"), pd.to_datetime(["2020-01-02", "2020-01-01"])),
        (np.array(["2020-01-01", "3300-01-01"], "M8[D]"), np.array(["3300-01-01", "2020-01-01"], "M8[s]")),
        (np.array([BIG, BIG + 1, BIG + 2]), np.array([BIG + 2, BIG], dtype=np.uint64)),
        (np.array([BIG, BIG + 1], dtype=np.uint64), [BIG + 1, BIG]),
    ],
)
def test_equal_labels_of_another_dtype_are_those_of_the_model(classes, y):
    known = encode_labels(classes, len(classes))
    last = len(known.classes) - 1
    assert encode_known_labels(y, 2, known).codes.tolist() == [last, 0]


def test_classes_that_a_later_call_names_are_compared_exactly():
    known = encode_labels([BIG + 1, BIG + 3], 2)
    check_same_classes(np.array([BIG + 3, BIG + 1], dtype=np.uint64), known)
    with pytest.raises(InputError, match="not those of the model"):
        check_same_classes([float(BIG), float(BIG + 4)], known)


def test_fifty_classes_are_no_regression():
    known = known_labels(range(50), [1, 2])  # would warn
    check_same_classes(list(range(50)), known)
    assert known.classes.tolist() == list(range(50))
    # Nor are few of them, all different, of classes that a model has.
    some = np.arange(25)
    assert encode_known_labels(some, 25, known).codes.tolist() == some.tolist()
    assert known.of_held_out(some, 25).tolist() == some.tolist()
    assert known_labels(range(50), some).classes.tolist() == list(range(50))


@pytest.mark.parametrize("wrap", [collections.UserList, collections.deque])
def test_other_sequences_are_read_as_lists(wrap):
    assert encode_labels(wrap(["b", "a", "b"]), 3).codes.tolist() == [1, 0, 1]
    with pytest.raises(InputError, match=r"missing label.*row 1"):
        encode_labels(wrap(["b", float("nan"), "a"]), 3)


def test_tables_of_arrow():
    table = pa.table({"refund": [1, 0, 1], "card": [0, 1, 1]})
    for y in (table, table.to_batches()[0]):
        labels = encode_labels(y, 3)
        assert labels.classes.tolist() == ["refund", "card"]
        assert labels.codes.tolist() == [[1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize("labels", [["b", "a", "b"], [2, 1, 2]])
def test_buffers(labels):
    assert encode_labels(memoryview(np.array(labels)), 3).codes.tolist() == [1, 0, 1]


def test_a_set_has_no_order_and_is_no_list_of_tags():
    with pytest.raises(InputError, match="Expected array-like"):
        encode_labels({"a", "b"}, 2)


def test_numbers_that_no_int_of_numpy_holds():
    with pytest.raises(InputError, match=r"y has 1180591620717411303424 at row 1, too large .*str\(label\)"):
        encode_labels([3, 2**70, 3], 3)


def test_the_classes_that_a_call_names_say_what_kind_of_target_it_is():
    assert known_labels(["b", "a"], ["a"]).target_type == "binary"
    assert known_labels(["a", "b", "c"], ["a"]).target_type == "multiclass"


@pytest.mark.parametrize("named", [["a", "b"], ["a", "b", "z"], ["a", "b", "c", "d"]])
def test_later_calls_name_all_classes_or_none(named):
    known = known_labels(["a", "b", "c"], ["a"])
    check_same_classes(None, known)
    check_same_classes(["c", "a", "b"], known)
    with pytest.raises(InputError, match="are not those of the model"):
        check_same_classes(named, known)


def test_rows_of_one_label():
    with pytest.warns(DataConversionWarning, match=r"shape \(3, 1\)"):
        labels = encode_labels([["a"], ["a\0"], ["b"]], 3)
    assert labels.classes.tolist() == ["a", "a\0", "b"]
    with pytest.warns(DataConversionWarning), pytest.raises(InputError, match="y mixes str labels"):
        encode_labels([["1"], [2]], 2)
    with pytest.raises(InputError, match="y mixes str labels"):
        encode_labels(pd.DataFrame({"y": ["1", 2]}), 2)
    with pytest.raises(InputError, match="y mixes str labels"):
        encode_labels(pd.Categorical(["1", 2]), 2)


def test_what_is_masked_is_missing():
    y = np.ma.array(["b", "a", "b"], mask=[False, True, False])
    with pytest.raises(InputError, match=r"missing label.*row 1"):
        encode_labels(y, 3)
    for mask in (False, [False] * 3):
        for labels in (["b", "a", "b"], [2, 1, 2], [True, False, True]):
            y = np.ma.array(labels, mask=mask)
            y.data.flags.writeable = False
            assert encode_labels(y, 3).codes.tolist() == [1, 0, 1]


@pytest.mark.parametrize("shape", [(4, 0), (4, 2, 1)])
def test_shapes_that_are_no_labels(shape):
    with pytest.raises(InputError, match=f"y has the shape {re.escape(str(shape))}. Expected one label"):
        encode_labels(np.zeros(shape), 4)


def test_labels_in_arrays_without_dimensions():
    y = [np.array("a"), np.array("b"), np.array("a")]
    assert encode_labels(y, 3).codes.tolist() == [0, 1, 0]


def test_tables_of_dask():
    frames = pytest.importorskip("dask.dataframe")
    table = pd.DataFrame(INDICATOR, columns=["refund", "card", "hello"])
    labels = encode_labels(frames.from_pandas(table, npartitions=2), 4)
    assert labels.classes.tolist() == ["refund", "card", "hello"]
    assert labels.codes.tolist() == INDICATOR.tolist()
    column = frames.from_pandas(pd.Series(["a", "b", "a", "b"]), npartitions=2)
    assert encode_labels(column, 4).codes.tolist() == [0, 1, 0, 1]


def test_what_is_wrong_with_labels_of_numpys_string_dtype_is_said():
    kind = np.dtypes.StringDType
    with pytest.raises(InputError, match=r"missing label.*row 1"):
        encode_labels(np.array(["a", None], dtype=kind(na_object=None)), 2)
    with pytest.raises(InputError, match="2-D target"):
        encode_labels(np.array([["a", "b"], ["b", "c"]], dtype=kind()), 2)
    assert encode_labels(np.array(["b", "a"], dtype=kind()), 2).classes.dtype == object


@pytest.mark.parametrize("wrap", [lambda y: array("d", y), lambda y: memoryview(np.array(y))])
def test_what_is_missing_in_a_buffer(wrap):
    with pytest.raises(InputError, match=r"missing label.*row 1"):
        encode_labels(wrap([1.0, float("nan"), 0.0]), 3)


def test_labels_of_an_array_go_with_any_names():
    y = pd.DataFrame(INDICATOR, columns=["refund", "card", "hello"])
    known = encode_labels(INDICATOR, 4)
    assert encode_known_labels(y, 4, known).codes.tolist() == INDICATOR.tolist()
    assert known.of_held_out(y, 4).tolist() == INDICATOR.tolist()
    assert encode_labels(["a", "b"], 2).names is None  # whose score may be given a table of one column


def test_a_model_of_three_classes_goes_on_with_no_matrix_of_three_columns():
    with pytest.raises(
        InputError, match=r"y has the shape \(4, 3\), but the model has the target type 'multiclass'"
    ):
        encode_known_labels(INDICATOR, 4, encode_labels(["a", "b", "c"], 3))


def test_of_two_columns_of_labels_multioutput_is_named():
    with pytest.raises(InputError, match="columns of classes, use scikit-learn's MultiOutputClassifier"):
        encode_labels(np.array([["a", "x"], ["b", "y"], ["c", "x"]]), 3)


def test_columns_of_one_name_are_numbered():
    indicator = np.eye(2, dtype=int)[[0, 1, 0, 1]]
    labels = encode_labels(pd.DataFrame(indicator, columns=["t", "t"]), 4)
    assert labels.classes.tolist() == [0, 1]
    np.testing.assert_array_equal(labels.codes, indicator)


def test_probabilities_as_labels_have_a_remedy():
    with pytest.raises(InputError, match=r"pass a text once for each label, with them as sample_weight"):
        encode_labels(np.array([[0.3, 0.7], [0.9, 0.1]]), 2)
    with pytest.raises(InputError, match=r"MultiOutputClassifier\.$"):
        encode_labels(np.array([[0.3, 7.5], [0.9, 0.1]]), 2)


class Tone(str, Enum):  # noqa: UP042  # a StrEnum is read as it should be
    """Whose members numpy reads by their names, cut to the length of their values."""

    GOOD = "good"
    GOLD = "gold"
    BAD = "bad!"


@pytest.mark.parametrize("form", [list, tuple, lambda y: [[label] for label in y]])
@pytest.mark.filterwarnings("ignore:A column-vector y:sklearn.exceptions.DataConversionWarning")
def test_members_of_an_enum_of_str_are_their_values(form):
    labels = encode_labels(form([Tone.GOOD, Tone.GOLD, Tone.BAD, Tone.BAD]), 4)
    assert labels.classes.tolist() == ["bad!", "gold", "good"]
    assert all(type(label) is str for label in labels.classes.tolist())
    assert labels.codes.tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize("word", ["columns", "toarray", "ndim"])
def test_an_index_of_words_is_no_attribute(word):
    y = pd.Series(["a", "b", "a"], index=[word, "of", "words"])
    assert encode_labels(y, 3).codes.tolist() == [0, 1, 0]
    table = pd.DataFrame({word: [0, 1, 0], "other": [1, 1, 0]})
    assert encode_labels(table, 3).classes.tolist() == [word, "other"]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([True, 2, 1, 0], "int"), ([1, 2.5, 1, 0], "float"), ([True, False, True, True], "bool")],
)
def test_the_dtype_that_is_advised_for_objects_keeps_them_apart(values, dtype):
    y = np.array(values, dtype=object)
    with pytest.raises(InputError, match=rf"pass y\.astype\({dtype}\)"):
        encode_labels(y, 4)
    assert y.astype(dtype).tolist() == values


@pytest.mark.parametrize("tags", [["b", "c"], {"b"}])
def test_the_row_that_holds_several_labels_is_named(tags):
    with pytest.raises(InputError, match=rf"as a {type(tags).__name__}, for example .*'b'.* at row 1"):
        encode_labels(["a", tags, "a", "b"], 4)


def test_fields_of_a_structured_array_are_named():
    y = np.array([(1, 2), (3, 4)], dtype=[("one", int), ("two", int)])
    with pytest.raises(
        InputError, match=r"fields \['one', 'two'\].*pass one of its fields, such as y\['one'\]"
    ):
        encode_labels(y, 2)


@pytest.mark.parametrize("kind", ["M8[ns]", "m8[ns]"])
def test_times_are_said_as_times(kind):
    y = np.array([0, 10**15, 0], dtype="int64").astype(kind)
    with pytest.raises(InputError) as caught:
        encode_known_labels(np.array([7 * 10**15]).astype(kind), 1, encode_labels(y, 3))
    for time in (*y, np.array(7 * 10**15).astype(kind)):
        assert str(time) in str(caught.value)
