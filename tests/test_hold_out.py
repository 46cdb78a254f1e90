"""Which rows early stopping holds out: the classes in both parts, and each text in one of them."""

import datetime
from collections import deque

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skbert import BertClassifier, BertRegressor, InputError, SkbertWarning
from skbert.data.fit_data import FitData, check_groups
from skbert.data.inputs import check_texts, factorize
from skbert.data.labels import encode_labels
from skbert.preparing import split_off_validation
from skbert.training.hold_out import _without_last_ones, hold_out


def split_different(codes, fraction, seed):
    """Of texts that are all different."""
    split = hold_out(codes, np.arange(len(codes)), fraction, seed)
    assert split.unseen
    return split.training, split.validation, split.complete


def test_hold_out_is_stratified_and_seeded():
    codes = np.array([0] * 60 + [1] * 30 + [2] * 10)
    training, validation, complete = split_different(codes, 0.2, 0)
    assert complete
    assert np.bincount(codes[validation]).tolist() == [12, 6, 2]
    assert sorted([*training, *validation]) == list(range(100))
    assert np.array_equal(split_different(codes, 0.2, 0)[1], validation)
    assert not np.array_equal(split_different(codes, 0.2, 1)[1], validation)


@pytest.mark.parametrize("seed", range(5))
def test_every_class_stays_in_training(seed):
    codes = np.array([0] * 10 + [1, 2, 3])
    training, validation, complete = split_different(codes, 0.3, seed)
    assert set(codes[training]) == {0, 1, 2, 3}
    assert len(validation) == 4
    assert not complete


def test_training_keeps_a_text_of_every_label():
    codes = np.zeros((40, 4), dtype=int)
    codes[:20, 0] = codes[7, 1] = codes[30, 2] = 1  # the last label never occurs
    for seed in range(20):
        training, validation, complete = split_different(codes, 0.25, seed)
        assert sorted([*training, *validation]) == list(range(40))
        assert len(validation) == 10
        assert codes[training].any(axis=0).tolist() == [True, True, True, False]
        assert not complete
    assert split_different(codes[:20, [0, 3]], 0.25, 0)[2]  # complete, as far as labels occur


@pytest.mark.parametrize("seed", range(5))
def test_a_large_fraction_leaves_a_rare_class_in_training(seed):
    codes = np.array([0] * 98 + [1] * 2)
    training, validation, complete = split_different(codes, 0.9, seed)
    assert (len(training), len(validation), complete) == (10, 90, True)
    assert set(codes[training]) == {0, 1}


def check_whole(split, codes, places):
    """Each row is in one part, and each text."""
    assert sorted([*split.training, *split.validation]) == list(range(len(codes)))
    assert not set(places[split.training]) & set(places[split.validation])
    assert split.unseen


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("form", ["classes", "indicator", "numbers"])
def test_equal_texts_are_on_one_side(form, seed):
    rng = np.random.default_rng(seed)
    places = np.concatenate([np.arange(60), np.arange(60), rng.integers(0, 60, 30)])
    codes = {
        "classes": rng.integers(0, 2, 60),
        "indicator": rng.integers(0, 2, (60, 3)),
        "numbers": rng.normal(size=(60, 1)),
    }[form][places]
    split = hold_out(codes, places, 0.2, seed)
    check_whole(split, codes, places)
    assert split.complete
    assert 20 <= len(split.validation) <= 30
    again = hold_out(codes, places, 0.2, seed)
    assert np.array_equal(again.validation, split.validation)


@pytest.mark.parametrize("seed", range(5))
def test_classes_that_were_oversampled_are_held_out_alike(seed):
    """Ten texts of the rare class, nine times each, beside ninety of the other, once each."""
    places = np.concatenate([np.repeat(np.arange(10), 9), np.arange(10, 100)])
    codes = np.repeat([0, 1], 90)
    split = hold_out(codes, places, 0.2, seed)
    check_whole(split, codes, places)
    assert np.bincount(codes[split.validation]).tolist() == [18, 18]


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_costs_the_others_nothing(seed):
    """Two large classes and two rare ones, all texts twice; the rarest has a single text."""
    sizes = [200, 200, 3, 1]
    places = np.tile(np.arange(sum(sizes)), 2)
    codes = np.tile(np.repeat(np.arange(4), sizes), 2)
    split = hold_out(codes, places, 0.1, seed)
    check_whole(split, codes, places)
    held = np.bincount(codes[split.validation], minlength=4)
    assert 36 <= held[:2].sum() <= 84
    assert held[2] in (0, 2)
    assert held[3] == 0
    assert not split.complete


def test_a_text_that_dominates_its_class_is_trained_on():
    places = np.concatenate([np.zeros(50, dtype=int), np.arange(1, 151)])
    codes = np.repeat([0, 1], [60, 140])
    for seed in range(40):
        split = hold_out(codes, places, 0.1, seed)
        check_whole(split, codes, places)
        assert 0 in places[split.training]
        assert len(split.validation) <= 20
        assert split.complete


def test_training_is_given_back_what_it_needs_and_no_more():
    """One text of sixty rows with a label, eight of five rows with both: one of these must stay."""
    places = np.concatenate([np.zeros(60, dtype=int), np.repeat(np.arange(1, 9), 5)])
    codes = np.stack([np.ones(100, dtype=int), (places > 0).astype(int)], axis=1)
    for seed in range(20):
        split = hold_out(codes, places, 0.6, seed)
        check_whole(split, codes, places)
        assert codes[split.training].any(axis=0).all()
        assert len(split.validation) >= 20


def test_a_label_that_is_wrong_once_does_not_decide_where_a_text_goes():
    places = np.concatenate([np.zeros(50, dtype=int), np.arange(1, 51)])
    codes = np.repeat([0, 1], [50, 50])
    codes[0] = 1
    for seed in range(10):
        split = hold_out(codes, places, 0.1, seed)
        assert 0 in places[split.training]
        assert len(split.validation) <= 10


def test_a_text_counts_as_of_the_class_that_most_of_its_rows_have():
    """Half of the texts have one wrong label in five: classes are held out alike all the same."""
    places = np.repeat(np.arange(40), 5)
    codes = (places >= 20).astype(int)
    codes[:100:5] = 1
    for seed in range(20):
        held = np.unique(places[hold_out(codes, places, 0.2, seed).validation])
        assert np.count_nonzero(held < 20) in (3, 4)


def test_of_the_texts_that_training_could_be_given_back_it_gets_the_smallest():
    targets, texts = np.repeat([0, 1], 6), np.repeat([0, 1, 2, 3], [5, 1, 3, 3])
    held = _without_last_ones(targets, texts, np.arange(12), np.r_[:6, 9:12])
    assert held.tolist() == [0, 1, 2, 3, 4, 9, 10, 11]


@pytest.mark.parametrize("seed", range(5))
def test_few_texts_that_were_oversampled_a_lot(seed):
    places = np.concatenate([np.repeat(np.arange(5), 200), np.arange(5, 1005)])
    codes = np.repeat([0, 1], 1000)
    split = hold_out(codes, places, 0.1, seed)
    check_whole(split, codes, places)
    assert np.bincount(codes[split.validation]).tolist() == [200, 100]


@pytest.mark.parametrize("seed", range(5))
def test_labels_of_an_indicator_that_repeats(seed):
    rng = np.random.default_rng(seed)
    codes = np.tile((rng.random((300, 40)) < 0.03).astype(int), (2, 1))
    places = np.tile(np.arange(300), 2)
    split = hold_out(codes, places, 0.1, seed)
    check_whole(split, codes, places)
    assert np.array_equal(codes[split.training].any(axis=0), codes.any(axis=0))
    assert len(split.validation) >= 40


@pytest.mark.parametrize("seed", range(5))
def test_a_text_that_most_rows_repeat_is_trained_on(seed):
    places = np.concatenate([np.zeros(50, dtype=int), np.arange(1, 51)])
    codes = np.array([0] * 75 + [1] * 25)
    split = hold_out(codes, places, 0.2, seed)
    check_whole(split, codes, places)
    assert 0 in places[split.training]
    assert split.complete


def test_texts_with_several_labels_leave_each_class_in_training():
    """The second class is that of other texts' copies alone."""
    places = np.concatenate([np.arange(20), np.arange(4)])
    codes = np.array([0] * 20 + [1] * 4)
    for seed in range(10):
        split = hold_out(codes, places, 0.2, seed)
        assert set(codes[split.training]) == {0, 1}


@pytest.mark.parametrize("seed", range(5))
def test_too_few_different_texts_are_split_as_if_they_were_different(seed):
    places, codes = np.repeat([0, 1], 20), np.repeat([0, 1], 20)
    split = hold_out(codes, places, 0.2, seed)
    assert not split.unseen
    assert np.bincount(codes[split.validation]).tolist() == [4, 4]


def test_too_few_different_texts_are_said(make_classifier):
    with pytest.warns(SkbertWarning, match="so few different texts"):
        make_classifier(early_stopping=True, epochs=1).fit(["good", "bad"] * 20, [1, 0] * 20)


def test_pairs_are_equal_if_both_sides_are():
    pairs = [(a, b) for a in "abcdefgh" for b in "xyz"] * 2
    data = FitData(check_texts(pairs), encode_labels([0, 1] * 24, 48), np.ones(48), np.ones(2), groups=None)
    training, validation = split_off_validation(np.arange(48), data, 0.2, 0)
    assert len(validation) >= 8
    assert not {pairs[row] for row in training} & {pairs[row] for row in validation}


def test_copies_of_texts_with_labels_of_chance_score_as_chance():
    """Held out by rows, these scored 0.9: each text was in training, too."""
    rng = np.random.default_rng(0)
    words = np.array("the film was and not a very long story about people who".split())
    texts = [" ".join(rng.choice(words, 8)) for _ in range(60)] * 2
    y = np.tile(rng.integers(0, 2, 60), 2)
    settings = {"epochs": 5, "early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 5}
    classifier = BertClassifier(random_state=0, max_length=32, **settings).fit(texts, y)
    assert max(classifier.validation_scores_) < 0.75
    assert classifier.loss_curve_[-1] < classifier.loss_curve_[0]


def test_one_text_of_each_class_is_enough_to_train_on():
    training, validation, complete = split_different(np.array([0, 0, 1, 1]), 0.5, 0)
    assert (len(training), len(validation), complete) == (2, 2, True)
    with pytest.raises(InputError, match="leaves 1 for training, fewer than one of each of the 2 classes"):
        split_different(np.array([0, 0, 1, 1]), 0.75, 0)
    with pytest.raises(InputError, match=r"=0.1 of 4 texts leaves none to validate on.*one text is 0.25"):
        split_different(np.array([0, 0, 1, 1]), 0.1, 0)


@pytest.mark.parametrize("seed", range(10))
def test_as_few_texts_as_there_are_classes_are_held_out_one_of_each(seed):
    codes = np.arange(30) % 3
    _, validation, complete = split_different(codes, 0.1, seed)
    assert (sorted(codes[validation].tolist()), complete) == ([0, 1, 2], True)


@pytest.mark.parametrize("seed", range(10))
def test_a_class_of_two_is_on_both_sides(seed):
    codes = np.repeat([0, 1, 2], [50, 50, 2])
    _, validation, complete = split_different(codes, 0.5, seed)
    assert complete
    assert np.bincount(codes[validation])[2] == 1


@pytest.mark.parametrize("seed", range(20))
def test_training_is_given_back_the_one_text_that_it_needs(seed):
    places = np.tile(np.arange(40), 2)
    codes = np.stack([places % 2, (places == 7).astype(int)], axis=1)  # one text alone has the second label
    split = hold_out(codes, places, 0.4, seed)
    check_whole(split, codes, places)
    assert 7 in places[split.training]
    assert len(split.validation) >= 20


def near_copies(n_authors=40, n_each=4):
    """Texts of authors who write the same things, about which their random labels say nothing."""
    rng = np.random.default_rng(0)
    words = np.array("the film was and not a very long story about people who".split())
    own = [" ".join(rng.choice(words, 8)) for _ in range(n_authors)]
    texts = [f"{own[author]} {i}" for author in range(n_authors) for i in range(n_each)]
    return texts, np.repeat(rng.integers(0, 2, n_authors), n_each), np.repeat(np.arange(n_authors), n_each)


def noting(texts_of_calls):
    """Return a scorer that notes which texts it is given."""

    def scorer(estimator, X, y):
        texts_of_calls.append(tuple(X))
        return float(np.mean(estimator.predict(X) == y))

    return scorer


@pytest.mark.parametrize("kind", [np.asarray, list, pd.Series, lambda g: [f"author {i}" for i in g]])
def test_groups_are_held_out_whole(make_classifier, kind):
    texts, y, authors = near_copies()
    held = []
    scoring = noting(held)
    classifier = make_classifier(early_stopping=True, validation_fraction=0.25, epochs=1, scoring=scoring)
    classifier.set_params(random_state=0).fit(texts, y, groups=kind(authors))
    of_held = np.array([authors[texts.index(text)] for text in held[0]])
    assert 32 <= len(of_held) <= 40
    assert set(np.unique(of_held, return_counts=True)[1]) == {4}


def test_near_copies_with_labels_of_chance_score_as_chance_in_groups():
    texts, y, authors = near_copies()
    scores = [
        BertClassifier(early_stopping=True, validation_fraction=0.25, epochs=3, max_length=16, random_state=0)
        .fit(texts, y, groups=groups)
        .best_validation_score_
        for groups in (None, authors)
    ]
    assert scores[0] > 0.9
    assert scores[1] < 0.75


def test_groups_are_routed_to_the_fit_unless_it_is_told_otherwise(make_classifier):
    texts, y, authors = near_copies(20)
    classifier = make_classifier(early_stopping=True, validation_fraction=0.25, epochs=1, random_state=0)
    whole = []
    with sklearn.config_context(enable_metadata_routing=True):
        for asked in (True, False):
            held = []
            asking = classifier.set_params(scoring=noting(held))
            asking = asking if asked else asking.set_fit_request(groups=False)
            model = make_pipeline(FunctionTransformer(), asking)
            cross_validate(model, texts, y, params={"groups": authors}, cv=GroupKFold(2), error_score="raise")
            for fold in dict.fromkeys(held):
                of_held = [authors[texts.index(text)] for text in fold]
                whole.append((asked, set(np.unique(of_held, return_counts=True)[1]) == {4}))
    assert whole == [(True, True), (True, True), (False, False), (False, False)]


def test_the_probe_is_asked_about_other_groups():
    """It predicts labels of chance on near-copies of what it has seen, but not on texts of others."""
    texts, y, authors = near_copies()
    starts = [
        BertClassifier(epochs=1, max_length=16, random_state=0).fit(texts, y, groups=groups).head_init_
        for groups in (None, authors)
    ]
    assert starts == ["linear_probe", "random"]


def test_groups_of_a_regression(tiny_bert):
    texts, y, authors = near_copies()
    regressor = BertRegressor(tiny_bert, early_stopping=True, epochs=1, random_state=0, max_length=16)
    split = split_off_validation(
        np.arange(len(y)),
        FitData(check_texts(texts), regressor._read_target(y * 1.0, check_texts(texts), None, None)[0],
                np.ones((len(y), 1)), np.ones(1), groups=authors),
        0.1, 0,
    )  # fmt: skip
    assert not set(authors[split[0]]) & set(authors[split[1]])
    assert len(split[1]) == 16


@pytest.mark.parametrize(
    ("n_groups", "n_each", "n_classes"),
    [(2, 300, 3), (5, 200, 77), (8, 100, 20), (10, 100, 100), (300, 4, 2)],
)
def test_groups_with_any_classes_are_whole_and_near_the_fraction(n_groups, n_each, n_classes):
    groups = np.repeat(np.arange(n_groups), n_each)
    for seed in range(8):
        codes = np.random.default_rng(seed).integers(0, n_classes, len(groups))
        split = hold_out(codes, np.arange(len(groups)), 0.1, seed, groups)
        assert split.unseen
        assert sorted([*split.training, *split.validation]) == list(range(len(groups)))
        assert not set(groups[split.training]) & set(groups[split.validation])
        assert set(codes[split.training]) == set(codes)
        expected = max(0.1 * len(groups), n_each)
        assert abs(len(split.validation) - expected) <= n_each / 2


def test_groups_are_held_out_so_that_classes_are_as_frequent():
    """A class of which one group has nearly all texts, which training needs, and one that all groups have."""
    groups = np.repeat(np.arange(20), 50)
    codes = np.zeros(1000, int)
    codes[:40], codes[900:904], codes[::10] = 1, 1, 2
    shares = []
    for seed in range(20):
        split = hold_out(codes, np.arange(1000), 0.2, seed, groups)
        assert np.count_nonzero(codes[split.training] == 1) >= 4
        shares.append(np.mean(codes[split.validation] == 2))
    assert np.ptp(shares) < 0.05


def test_groups_that_alone_have_a_class_are_not_chosen():
    """Chosen and given back, they would leave nothing."""
    sizes = [38, 4, 9, 114]
    groups = np.repeat(np.arange(4), sizes)
    codes = np.where(groups == 0, 1, 0)
    for seed in range(10):
        split = hold_out(codes, np.arange(165), 0.2, seed, groups)
        assert split.unseen
        assert len(split.validation) in (4, 9, 13)


def test_groups_of_many_sizes_are_near_the_fraction():
    sizes = [60, 1, 2, 45, 5, 30, 7, 50]
    groups, rows = np.repeat(np.arange(len(sizes)), sizes), np.arange(200)
    numbers = np.random.default_rng(0).normal(size=(200, 1))
    for seed in range(10):
        assert abs(len(hold_out(numbers, rows, 0.1, seed, groups).validation) - 20) <= 8


def test_groups_are_drawn_by_the_seed():
    groups, rows = np.repeat(np.arange(40), 5), np.arange(200)
    held = [hold_out(rows % 2, rows, 0.2, seed, groups).validation.tolist() for seed in (0, 1, 2, 3, 4, 0)]
    assert held[0] == held[5]
    assert len(set(map(tuple, held))) == 5


@pytest.mark.parametrize("targets", [np.ones((10, 1)), np.ones((10, 1), dtype=np.int64)], ids=["y", "Y"])
def test_both_sides_have_a_text(targets):
    for fraction, side in ((0.99, "for training"), (0.01, "to validate on")):
        with pytest.raises(InputError, match=f"leaves none {side}"):
            hold_out(targets, np.arange(10), fraction, 0)


def test_where_no_group_can_be_held_out_texts_are():
    groups = np.repeat(np.arange(30), 10)
    texts = np.arange(300) // 5  # each five times
    split = hold_out(groups, texts, 0.2, 0, groups)  # each group is a class
    assert not split.unseen
    assert not set(texts[split.training]) & set(texts[split.validation])


def test_training_keeps_a_class_that_one_group_has():
    groups = np.repeat(np.arange(10), 10)
    codes = (groups == 3).astype(int) + 2 * (groups == 4)
    for seed in range(10):
        split = hold_out(codes, np.arange(100), 0.5, seed, groups)
        assert set(codes[split.training]) == {0, 1, 2}
        assert not split.complete


def test_indicators_and_numbers_are_held_out_in_groups():
    groups = np.repeat(np.arange(30), 5)
    rng = np.random.default_rng(0)
    for targets in ((rng.random((150, 4)) < 0.3).astype(int), rng.normal(size=(150, 1))):
        split = hold_out(targets, np.arange(150), 0.2, 0, groups)
        assert not set(groups[split.training]) & set(groups[split.validation])
        assert len(split.validation) == 30
    split = hold_out(rng.normal(size=(20, 1)), np.arange(20), 0.8, 0, np.repeat([0, 1], 10))
    assert len(split.training) == 10  # not every group there is


def test_a_text_that_groups_share_stays_in_training_and_joins_no_groups():
    groups = np.repeat(np.arange(100), 10)
    texts = np.where(np.arange(1000) % 10 == 0, 0, np.arange(1000))  # all have written "thanks"
    split = hold_out(np.arange(1000) % 2, texts, 0.1, 0, groups)
    assert split.unseen
    assert not set(texts[split.training]) & set(texts[split.validation])
    assert len(split.validation) == 90
    assert len(set(groups[split.validation])) == 10


@given(
    st.integers(4, 40).flatmap(
        lambda n: st.tuples(*(st.lists(st.integers(0, k), min_size=n, max_size=n) for k in (3, n, 6)))
    ),
    st.sampled_from([0.1, 0.25, 0.5, 0.8]),
    st.integers(0, 3),
    st.sampled_from(["classes", "labels", "numbers"]),
)
def test_whatever_the_groups_no_text_and_no_group_is_on_both_sides(drawn, fraction, seed, kind):
    codes, texts, groups = map(np.array, drawn)
    targets = {"classes": codes, "labels": np.eye(4, dtype=int)[codes], "numbers": codes[:, None] * 1.0}[kind]
    try:
        split = hold_out(targets, factorize(texts.tolist())[1], fraction, seed, groups)
    except InputError:  # the fraction leaves too few rows on one side
        return
    assert sorted([*split.training, *split.validation]) == list(range(len(codes)))
    if not split.unseen:
        return
    assert len(split.validation) > 0
    assert not set(texts[split.training]) & set(texts[split.validation])
    if kind != "numbers":
        assert set(codes[split.training]) == set(codes)
    # Of a group that is held out, only texts that others have, too, are in training.
    held = np.isin(groups, groups[split.validation])
    left = np.setdiff1d(split.training, np.flatnonzero(~held))
    assert set(texts[left]) <= set(texts[~held])


def test_one_group_is_said(make_classifier):
    texts, y, _ = near_copies(10)
    with pytest.warns(SkbertWarning, match="No group can be held out that training does without"):
        make_classifier(early_stopping=True, epochs=1).fit(texts, y, groups=["one"] * 40)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([1, 2, 3], "groups has 3 entries for 24 texts. Expected one per text."),
        (
            [1] * 23 + [None],
            "groups has a missing value at row 23. Give each text a group, one of its own if",
        ),
        (np.r_[np.nan, np.ones(23)], "groups has a missing value at row 0"),
        (pd.Series([pd.NA] + [1] * 23), "groups has a missing value at row 0"),
        (
            np.ones((24, 2)),
            r"groups has the shape \(24, 2\). Expected a 1-D array-like with the group of each text",
        ),
        ("author", "groups is 'author'. Expected a 1-D"),
        (7, "groups is 7. Expected a 1-D"),
        (
            torch.ones(24, requires_grad=True),
            r"groups cannot be read \(.*\). Pass a list with one str or int",
        ),
        (list(pa.array([1] * 23 + [None])), "groups has a missing value at row 23"),
        (list(torch.ones(24, 2)), "groups has several values in a cell"),
        ([np.ones(2)] * 24, "groups has several values in a cell"),
        (pa.array([None] + ["a"] * 23), "groups has a missing value at row 0"),
        (np.ma.array([1] * 24, mask=[0] * 5 + [1] + [0] * 18), "groups has a missing value at row 5"),
        (
            [{"a"}] * 24,
            r"groups cannot be compared \(unhashable type: 'set'\). Pass one str or int per text.",
        ),
    ],
)
def test_groups_that_cannot_be_used(make_classifier, reviews, groups, message):
    with pytest.raises(InputError, match=message):
        make_classifier(epochs=1).fit(*reviews, groups=groups)


def test_any_comparable_groups_are_numbered():
    days = [datetime.date(2026, 1, 1), datetime.date(2026, 1, 2), datetime.date(2026, 1, 1)]
    kinds = (pd.Series, pl.Series, torch.tensor, pa.array, np.ma.array, np.array)
    ints = [kind([7, 8, 7]) for kind in kinds]
    strs = [pd.Categorical(list("aba")), pa.array(list("aba")), pl.Series(list("aba"))]
    tuples = [("a", 1), ("b", 2), ("a", 1)]
    strs += [list(pa.array(list("aba"))), list(torch.tensor([1, 2, 1])), deque(["1", 1, "1"])]
    for groups in (days, pd.Series(days), tuples, ["x", 3, "x"], *ints, *strs):
        assert check_groups(groups, 3).tolist() == [0, 1, 0]
