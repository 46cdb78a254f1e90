"""Names of text columns, and who refuses others."""

import pandas as pd
import pyarrow as pa
import pytest

from skbert import InputError
from skbert.data.columns import check_same_names, column_names

PAIRS = pd.DataFrame({"a": ["good", "bad"] * 4, "b": ["film", "book"] * 4})
LABELS = ["pos", "neg"] * 4


def test_names_of_a_frame_alone():
    assert column_names(PAIRS)["feature_names_in_"].tolist() == ["a", "b"]
    assert column_names(PAIRS.to_numpy()) == column_names(["good"]) == column_names(PAIRS["a"]) == {}
    with pytest.raises(TypeError, match="feature names"):
        column_names(PAIRS.rename(columns={"a": 1}))


def test_columns_without_names_go_with_any():
    check_same_names(PAIRS.to_numpy(), column_names(PAIRS))
    check_same_names(PAIRS[["b", "a"]], column_names(PAIRS.to_numpy()))
    check_same_names(PAIRS.set_axis([0, 1], axis=1), column_names(PAIRS))


def test_names_of_an_arrow_table():
    table = pa.table({name: PAIRS[name].tolist() for name in PAIRS})
    check_same_names(table, column_names(table))
    check_same_names(table, column_names(PAIRS))
    (batch,) = table.to_batches()
    assert column_names(batch)["feature_names_in_"].tolist() == ["a", "b"]
    with pytest.raises(InputError, match="Pass the same columns"):
        check_same_names(batch.select(["b", "a"]), column_names(PAIRS))


def test_names_of_frames_that_are_not_pandas_own():
    frames = pytest.importorskip("dask.dataframe")
    assert column_names(frames.from_pandas(PAIRS, npartitions=2))["feature_names_in_"].tolist() == ["a", "b"]
    with pytest.raises(InputError, match="Pass the same columns"):
        check_same_names(frames.from_pandas(PAIRS[["b", "a"]], npartitions=2), column_names(PAIRS))


@pytest.mark.parametrize("method", ["partial_fit", "warm start"])
def test_a_model_does_not_go_on_with_swapped_columns(method, make_classifier):
    classifier = make_classifier(warm_start=method == "warm start")
    go_on = classifier.fit if classifier.warm_start else classifier.partial_fit
    go_on(PAIRS, LABELS, *([] if classifier.warm_start else [["neg", "pos"]]))
    before = dict(vars(classifier))
    with pytest.raises(ValueError, match="should match those that were passed during fit"):
        go_on(PAIRS[["b", "a"]], LABELS)
    assert vars(classifier) == before
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        go_on(PAIRS.to_numpy(), LABELS)
    assert classifier.feature_names_in_.tolist() == ["a", "b"]


def test_two_columns_of_one_name_are_refused_in_words(make_classifier):
    twice = PAIRS.set_axis(["a", "a"], axis=1)
    fitted = make_classifier(epochs=1).fit(PAIRS, LABELS)
    table = pa.table([PAIRS["a"].tolist(), PAIRS["b"].tolist()], names=["a", "a"])
    for call in (
        lambda: make_classifier().fit(twice, LABELS),
        lambda: make_classifier().fit(table, LABELS),
        lambda: make_classifier().fit(PAIRS, LABELS, X_val=twice, y_val=LABELS),
        lambda: fitted.predict(twice),
    ):
        with pytest.raises(
            InputError,
            match=r"^X(_val)? has two columns called 'a'. Rename one of them, or .* np\.asarray\(X",
        ):
            call()
    make_classifier(epochs=1).fit(twice.to_numpy(), LABELS)
