"""X and y that can be fitted, but are hardly what was meant."""

import warnings

import numpy as np
import pandas as pd
import pytest

from skbert import BertRegressor, CollapseWarning, InputError, SkbertWarning
from skbert.data.inputs import Texts
from skbert.data.labels import Labels, encode_labels
from skbert.data.mistakes import check_labels_of_texts, check_numbers_of_texts
from skbert.data.numbers import standardize

TEXTS = [f"text {i}" for i in range(40)]
LETTERS = list("abcd") * 10
NUMBERS = [0, 1, 2, 3] * 10


def check(first, second, y, *, goes_on=False):
    check_labels_of_texts(Texts(first, second), encode_labels(y, len(first)), goes_on=goes_on)


def check_numbers(first, second, y, *, goes_on=False):
    numbers = standardize(y, np.ones(len(first)), None)
    check_numbers_of_texts(Texts(first, second), numbers, goes_on=goes_on)


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", CollapseWarning)
        yield


def test_pairs_of_a_text_and_its_label_are_refused():
    y, texts = ["a", "b", "b", "a"], ["one", "two", "three", "four"]
    for first, second, column in ((texts, y, 1), (y, texts, 0)):
        with pytest.raises(InputError, match=rf"Column {column} of X holds the labels.*X\['text'\]"):
            check(first, second, y)
    with pytest.raises(InputError, match="Column 1"):
        check(texts, ["1", "0", "0", "1"], [1, 0, 0, 1])
    check(texts, ["b", *y[1:]], y)
    check(y, None, y)


@pytest.mark.parametrize("written", [str, "{:.1f}".format])
def test_pairs_of_a_text_and_its_number_are_refused(written):
    column = [written(number) for number in range(40)]
    with pytest.raises(InputError, match="Column 1 of X holds the labels"):
        check_numbers(TEXTS, column, list(range(40)))
    check_numbers(TEXTS, column[::-1], list(range(40)))
    check_numbers(column, None, list(range(40)))


@pytest.mark.parametrize("form", ["encoded", "indicator", "numbers", "rows of numbers"])
def test_a_label_under_another_name_is_noticed(form):
    def checked(second):
        if form == "encoded":
            check(TEXTS, second, NUMBERS)
        elif form == "indicator":
            check(TEXTS, second, pd.get_dummies(pd.Series(NUMBERS)))
        elif form == "numbers":
            check_numbers(TEXTS, second, [float(number) for number in NUMBERS])
        else:
            check_numbers(TEXTS, second, [[number, -number] for number in NUMBERS])

    with pytest.warns(
        SkbertWarning, match=r"Column 1 of X gives the labels away: each of its 4 .*such as 'a'"
    ):
        checked(LETTERS)
    checked(["b", *LETTERS[1:]])  # no longer one text for each label
    checked(["e" if i == 0 else letter for i, letter in enumerate(LETTERS)])  # two texts of one label
    checked(list("ab") * 20)  # one text for two labels


def test_one_label_is_given_away_by_no_column():
    labels = Labels(np.zeros(40, np.int64), np.array(["a", "b"]), "binary")
    check_labels_of_texts(Texts(["one prompt"] * 40, TEXTS), labels, goes_on=False)
    check_numbers(["one prompt"] * 40, TEXTS, [5.0] * 40)


def test_what_a_part_of_a_stream_repeats_is_chance(make_classifier, tiny_bert):
    texts, stars = ["is it old", "is it new", "is it fast", "is it hot"], [5, 5, 4, 5]
    questions = ["is this old?", "is this old?", "is this new?", "is this old?"]
    for second in (list(map(str, stars)), questions):
        check(texts, second, stars, goes_on=True)
        check_numbers(texts, second, stars, goes_on=True)
    pairs = list(zip(texts, map(str, stars), strict=True))
    regressor = BertRegressor(tiny_bert, epochs=1, max_length=16, device="cpu", precision="float32")
    regressor.partial_fit(pairs, [1, 2, 3, 4]).partial_fit(pairs, stars)
    classifier = make_classifier(epochs=1)
    classifier.partial_fit(pairs, [4, 5, 4, 5], classes=[4, 5]).partial_fit(pairs, stars)


def test_pairs_that_are_repeated_are_pairs():
    check(["a question"] * 8, ["an answer", "another"] * 4, [1, 0] * 4)


def test_a_table_with_the_encoded_label_is_noticed(make_classifier, tiny_bert):
    table = pd.DataFrame({"text": TEXTS, "label": LETTERS})
    with pytest.warns(SkbertWarning, match=r"Column 1 of X gives the labels away.*X\['text'\]"):
        make_classifier(epochs=1).fit(table, table["label"].map({"a": 0, "b": 1, "c": 2, "d": 3}))
    make_classifier(epochs=1).fit(table["text"], table["label"])
    regressor = BertRegressor(tiny_bert, epochs=1, max_length=16, device="cpu", precision="float32")
    with pytest.raises(InputError, match="Column 1 of X holds the labels"):
        regressor.fit(pd.DataFrame({"text": TEXTS, "stars": map(str, NUMBERS)}), NUMBERS)


def test_labels_in_place_of_texts_are_noticed(make_classifier):
    with pytest.warns(SkbertWarning, match="40 different labels, but X only 4 different texts, such as 'a'"):
        make_classifier(epochs=1).fit(LETTERS, TEXTS)
    check(TEXTS, None, LETTERS)
    # The first part of a stream may have fewer classes than the whole.
    many = make_classifier(epochs=1).partial_fit(TEXTS[:10], TEXTS[:10], classes=TEXTS)
    many.set_params(warm_start=True).fit(TEXTS[:10], TEXTS[:10])


def test_second_texts_in_place_of_labels_are_noticed(make_classifier):
    others = [f"other {i}" for i in range(40)]
    said = r"40 different labels for 40 texts, such as 'other 0'.*fit\(list\(zip\(first, second\)\), labels\)"
    with pytest.warns(SkbertWarning, match=said):
        make_classifier(epochs=1).fit(TEXTS, others, [1.0] * 40)
    check(TEXTS, None, others, goes_on=True)
    check(TEXTS, None, [f"intent {i % 30}" for i in range(40)])  # few texts of each
    check(TEXTS, None, [f"bad_card_{i}" for i in range(40)])  # one text of each intent
    check(TEXTS[:20], None, others[:20])
