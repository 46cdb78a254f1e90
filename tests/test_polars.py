"""Tables and columns of polars go in wherever those of pandas do, and give the same model."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skbert import BertRegressor, InputError, InputTypeError


@pytest.fixture(scope="module")
def of_lists(make_classifier, reviews):
    """Probabilities of a model that was given lists."""
    texts, labels = map(list, reviews)
    return make_classifier().fit(texts, labels).predict_proba(texts)


@pytest.mark.parametrize(
    "texts_as",
    [
        pl.Series,
        lambda texts: pl.DataFrame({"text": texts}),
        lambda texts: pl.Series(texts, dtype=pl.Categorical),
        lambda texts: pl.concat([pl.Series(texts[:5]), pl.Series(texts[5:])], rechunk=False),
    ],
    ids=["series", "frame", "categorical", "chunks"],
)
def test_texts(make_classifier, reviews, of_lists, texts_as):
    X = texts_as(list(reviews[0]))
    classifier = make_classifier().fit(X, pl.Series(list(reviews[1])))
    np.testing.assert_array_equal(classifier.predict_proba(X), of_lists)
    assert getattr(classifier, "feature_names_in_", []) == (["text"] if isinstance(X, pl.DataFrame) else [])
    assert classifier.score(X, pl.Series(list(reviews[1]))) == np.mean(classifier.predict(X) == reviews[1])


def test_pairs_know_their_columns(make_classifier, reviews):
    table = pl.DataFrame({"question": reviews[0], "answer": reviews[0][::-1]})
    classifier = make_classifier().fit(table, reviews[1])
    of_pandas = make_classifier().fit(pd.DataFrame(table.to_dict(as_series=False)), reviews[1])
    np.testing.assert_array_equal(classifier.predict_proba(table), of_pandas.predict_proba(table))
    with pytest.raises(ValueError, match="must be in the same order"):
        classifier.predict(table.select("answer", "question"))
    # As one column of both, names would be lost, and pairs of another order not be noticed.
    with pytest.raises(InputTypeError, match=r"pass X\.struct\.unnest\(\)"):
        classifier.predict(table.to_struct("both"))


@pytest.mark.parametrize(
    ("values", "dtype", "classes"),
    [
        (["b", "a"], pl.Categorical, ["a", "b"]),
        (["b", "a"], pl.Enum(["b", "never", "a"]), ["a", "b"]),
        ([5, 2], pl.Int8, [2, 5]),
        ([True, False], pl.Boolean, [False, True]),
    ],
)
def test_labels(make_classifier, reviews, values, dtype, classes):
    y = pl.Series(values * 12, dtype=dtype)
    classifier = make_classifier(epochs=1).fit(list(reviews[0]), y)
    assert classifier.classes_.tolist() == classes
    as_list = make_classifier(epochs=1).fit(list(reviews[0]), values * 12)
    assert classifier.loss_curve_ == as_list.loss_curve_


def test_several_labels_keep_their_names(make_classifier, reviews):
    texts = pl.Series(list(reviews[0]))
    Y = pl.DataFrame({"good": [label == "pos" for label in reviews[1]], "film": texts.str.contains("film")})
    classifier = make_classifier(epochs=1).fit(texts, Y)
    assert classifier.classes_.tolist() == ["good", "film"]
    expected = (classifier.predict(texts) == Y.to_numpy()).all(axis=1).mean()
    assert classifier.score(texts, Y) == expected
    with pytest.raises(InputError, match="columns"):
        classifier.score(texts, Y.select("film", "good"))


def test_numbers_and_weights(tiny_bert, reviews):
    numbers = np.arange(24) / 4
    fits = [
        BertRegressor(tiny_bert, epochs=1, max_length=32, random_state=0, device="cpu").fit(
            list(reviews[0]), y, sample_weight=weights
        )
        for y, weights in [
            (numbers, 1 + numbers),
            (pl.Series(numbers), pl.Series(1 + numbers)),
            (pl.Series(numbers).cast(pl.Decimal(10, 2)), pl.Series(1 + numbers, dtype=pl.Float32)),
        ]
    ]
    expected, *found = [regressor.predict(list(reviews[0])) for regressor in fits]
    for predicted in found:
        np.testing.assert_array_equal(predicted, expected)


def test_set_output(make_classifier, reviews):
    classifier = make_classifier(epochs=1).set_output(transform="polars")
    table = classifier.fit(pl.Series(list(reviews[0])), reviews[1]).transform(pl.Series(list(reviews[0])))
    assert isinstance(table, pl.DataFrame)
    assert table.columns == classifier.get_feature_names_out().tolist()


def test_what_is_missing_is_named(make_classifier, reviews):
    texts, labels = map(list, reviews)
    for X in (pl.Series([*texts[:-1], None]), pl.DataFrame({"text": [*texts[:-1], None]})):
        with pytest.raises(InputTypeError, match=r"X has None .* at row 23.*X\.fill_null\(''\)"):
            make_classifier().fit(X, labels)
    with pytest.raises(InputError, match=r"missing label.* at row 23"):
        make_classifier().fit(texts, pl.Series([*labels[:-1], None]))
    with pytest.raises(InputError, match="sample_weight is nan at row 0"):
        make_classifier().fit(texts, labels, sample_weight=pl.Series([None] + [1.0] * 23))
    with pytest.raises(InputTypeError, match=r"from a lazy table pass X\.collect\(\)\['text'\]"):
        make_classifier().fit(pl.LazyFrame({"text": texts}), labels)
