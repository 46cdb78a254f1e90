"""What each text weighs."""

import datetime

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.utils import compute_sample_weight

from skbert import InputError, SkbertWarning
from skbert.data.labels import encode_labels
from skbert.data.weights import check_text_weights, check_weights, combine


def both(labels, *given):
    """Weights of texts and of their classes, together."""
    return combine(*check_weights(labels, *given), labels.codes)


def test_all_weigh_one_by_default():
    labels = encode_labels(["a", "b", "a"], 3)
    rows, classes = check_weights(labels, None, None)
    assert rows.tolist() == [1, 1, 1]
    assert classes.tolist() == [1, 1]


def test_weights_balanced_as_scikit_learn():
    y = ["a"] * 6 + ["b"] * 2
    weights = both(encode_labels(y, 8), None, "balanced")
    np.testing.assert_allclose(weights, compute_sample_weight("balanced", y))


def test_balanced_ignores_classes_of_weight_zero():
    weights = both(encode_labels(["a", "b", "c", "b"], 4), [1, 1, 0, 1], "balanced")
    np.testing.assert_allclose(weights, [1.5, 0.75, 0, 0.75])


def test_classes_that_weigh_nothing_take_their_texts_with_them():
    labels = encode_labels(["a", "b", "c", "a"], 4)
    rows, classes = check_weights(labels, [1, 2, 3, 4], {"a": 0, "b": 5})
    assert rows.tolist() == [0, 2, 3, 0]
    assert classes.tolist() == [5e-9, 5, 1]  # of which there are logarithms


def test_weights_combine():
    weights = both(encode_labels(["a", "b", "a"], 3), [1, 2, 0], {"a": 3, "b": 1})
    assert weights.tolist() == [3, 2, 0]


@pytest.mark.parametrize(
    ("sample_weight", "class_weight", "said"),
    [
        ([0, 0], None, "zero"),
        ([1, -1], None, "sample_weight is -1 at row 1"),
        ([1, None], None, "sample_weight is nan at row 1"),
        (np.array([1, -1], dtype=object), None, "sample_weight is -1 at row 1"),
        ([1], None, "sample_weight has 1 weights for 2 texts"),
        ([1e300, 1e300], None, "too large"),
        ([1e-320, 1e-320], None, "too small"),
        ([1, float("nan")], None, "sample_weight is nan at row 1"),
        ([float("inf"), 1], None, "sample_weight is inf at row 0"),
        ([1, "much"], None, "sample_weight is 'much' at row 1"),
        ([1, {}], None, r"sample_weight is \{\} at row 1"),
        ([[0, 0], [0, 0]], None, "1D|one-dimensional|dimension"),
        (-1.0, None, "[Nn]egative"),
        ([], None, "sample_weight has 0 weights for 2 texts"),
        (pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"])), None, "sample_weight holds times"),
        (csr_array([[1.0, 1.0]]), None, "[Ss]parse"),
        (None, {"a": 0, "b": 0}, "weight above zero"),
        (None, {"a": 0, "b": 1}, r"only \['b'\]"),
        (None, {"a": -1, "b": 1}, "class_weight"),
        (None, {"a": "much"}, "class_weight gives 'much' to 'a'"),
        (None, {"b": -1.0}, "class_weight gives -1 to 'b'. Expected finite"),
        (None, {"a": None}, "class_weight gives None to 'a'"),
        (None, {"a": 10**400}, "class_weight gives 1000.* to 'a'"),
        ([10**400, 1], None, "sample_weight is 1000.* at row 0"),
        (None, {0: 5, 1: 1}, r"names \[0, 1\], but the classes in y are \['a', 'b'\]"),
    ],
)
def test_bad_weights(sample_weight, class_weight, said):
    with pytest.raises(ValueError, match=said):
        both(encode_labels(["a", "b"], 2), sample_weight, class_weight)


INDICATOR = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 1]])


def test_weights_of_an_indicator():
    labels = encode_labels(INDICATOR, 4)
    assert both(labels, [1, 2, 3, 0], None).tolist() == [[1] * 3, [2] * 3, [3] * 3, [0] * 3]
    weighted = both(labels, None, {0: 5})
    assert weighted.tolist() == [[5, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    balanced = both(labels, None, "balanced")
    np.testing.assert_allclose(balanced[0], [3, 1, 1 / 3])
    with pytest.raises(InputError, match=r"class_weight names \[3\], but the labels are \[0, 1, 2\]"):
        both(labels, None, {3: 1.0})
    with pytest.raises(InputError, match="class_weight gives 'much' to 0"):
        both(labels, None, {0: "much"})


def test_labels_that_differ_only_where_the_weight_is_zero():
    labels = encode_labels([[0, 1], [0, 1], [1, 0]], 3)
    with pytest.raises(InputError, match="the same for all 2 texts"):
        check_weights(labels, [1, 1, 0], None)


def test_a_word_for_the_weights_of_texts():
    with pytest.raises(InputError, match=r"sample_weight='balanced'.* the parameter class_weight"):
        check_text_weights(4, "balanced")


def test_texts_to_validate_on_are_no_weights():
    for pair in ((["a", "b"], [0, 1]), (["a", "b", "c"], pd.Series([0, 1, 1]))):
        with pytest.raises(InputError, match=r"sample_weight is a tuple of 2.*X_val= and y_val="):
            check_text_weights(4, pair)
    assert check_text_weights(2, (1.0, 3.0)).tolist() == [1.0, 3.0]


def test_balanced_leaves_labels_alone_that_are_the_same_everywhere():
    with pytest.warns(SkbertWarning, match="never occur"):
        labels = encode_labels(INDICATOR * [0, 1, 1], 4)
    weighted = both(labels, [1, 1, 0.1, 0.1], "balanced")
    assert (weighted[:, 0] == [1, 1, 0.1, 0.1]).all()


def test_balanced_weighs_a_label_of_all_texts_as_one_without():
    labels = encode_labels(np.c_[INDICATOR, np.ones(4, dtype=int)], 4)
    assert both(labels, [1, 2, 0.1, 0.3], "balanced")[:, 3].tolist() == [1, 2, 0.1, 0.3]


def test_one_class_is_enough_where_training_goes_on():
    labels = encode_labels(["a", "b"], 2)
    assert check_weights(labels, [1, 0], None, min_classes=1)[0].tolist() == [1, 0]
    with pytest.raises(InputError, match="no text has a weight above zero"):
        check_weights(labels, [1, 0], {"a": 0}, min_classes=1)


@pytest.mark.parametrize("unit", ["D", "ns"])
def test_dates_are_weighed_by_any_form_of_them(unit):
    days = np.array(["2020-01-01", "2021-01-01", "2020-01-01"], f"M8[{unit}]")
    labels = encode_labels(days, 3)
    for day in (datetime.date(2020, 1, 1), np.datetime64("2020-01-01"), pd.Timestamp("2020-01-01")):
        assert both(labels, None, {day: 3.0}).tolist() == [3, 1, 3]
    with pytest.raises(InputError, match=r"class_weight names.*2022.*as they are in y"):
        both(labels, None, {datetime.date(2022, 1, 1): 3.0})
    with pytest.raises(InputError, match=r"class_weight names \['spring'\]"):
        both(labels, None, {"spring": 3.0})
    with pytest.raises(InputError, match="class_weight gives 'much'"):
        both(labels, None, {datetime.date(2020, 1, 1): "much"})


def test_a_class_of_weight_zero_that_goes_on_weighs_as_the_others():
    """Its texts are left out; its weight only moves its logit, and must not move the scale of the loss."""
    of_rows, of_classes = check_weights(
        encode_labels(["a", "b", "c"], 3), None, {"a": 0, "b": 2}, goes_on=True
    )
    assert of_rows.tolist() == [0, 1, 1]
    assert of_classes.tolist() == [1.5, 2, 1]


def test_a_misspelt_class_is_named_even_if_another_is_right():
    with pytest.raises(InputError, match="typo"):
        check_weights(encode_labels(["a", "b"], 2), None, {"a": 2, "typo": 1})


def test_a_masked_weight_is_none():
    with pytest.raises(InputError, match="sample_weight is masked at row 1"):
        both(encode_labels(["a", "b"], 2), np.ma.array([1.0, 2.0], mask=[False, True]), None)


@pytest.mark.parametrize("classes", [["0", "1"], [0, 1], [0.0, 1.0], [False, True], ["a", "1"]])
def test_classes_are_named_as_they_are(classes):
    labels = encode_labels(classes, 2)
    last = labels.classes.tolist()[-1]
    expected = [3.0 if label == last else 1.0 for label in classes]
    assert both(labels, None, {last: 3.0}).tolist() == expected
    all_and_more = {classes[0]: 1.0, classes[1]: 1.0, "more": 9.0} | {last: 3.0}
    assert both(labels, None, all_and_more).tolist() == expected
    other = {str(label): 3.0 for label in classes} if not isinstance(last, str) else {0: 3.0, 1: 1.0}
    with pytest.raises(InputError, match=r"class_weight names.*with their type"):
        both(labels, None, other)


def test_labels_that_weigh_nothing_take_their_ones_with_them():
    rows, of_labels = check_weights(encode_labels(INDICATOR, 4), [1, 2, 3, 0], {0: 0, 1: 2})
    assert rows.tolist() == [[0, 1, 1], [2, 2, 2], [3, 3, 3], [0, 0, 0]]
    assert of_labels.tolist() == [1, 2, 1]  # of which there are logarithms


@pytest.mark.parametrize(("scale", "said"), [(1e300, "too large"), (1e-300, "too small")])
def test_class_weights_that_are_no_numbers_to_compute_with(scale, said):
    with pytest.raises(InputError, match=said):
        check_weights(encode_labels(["a", "b"], 2), None, {"a": scale, "b": scale})
    if said == "too large":
        with pytest.raises(InputError, match=said):
            check_weights(encode_labels(INDICATOR, 4), None, {0: scale})


def test_balanced_counts_weights_of_texts_for_an_indicator_too():
    of_labels = check_weights(encode_labels(INDICATOR, 4), [1, 2, 3, 4], "balanced")[1]
    np.testing.assert_allclose(of_labels, [9 / 1, 8 / 2, 2 / 8])


@pytest.mark.parametrize("unit", ["s", "ns"])
def test_spans_of_time_are_weighed_by_any_form_of_them(unit):
    spans = np.array([1, 2, 1], "m8[s]").astype(f"m8[{unit}]")
    labels = encode_labels(spans, 3)
    for span in (datetime.timedelta(seconds=1), np.timedelta64(1, "s"), pd.Timedelta(1, "s")):
        assert both(labels, None, {span: 3.0}).tolist() == [3, 1, 3]
