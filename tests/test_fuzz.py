"""Whatever is passed as X: a result, or a ValueError or TypeError that names the row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outputs import METHODS


class Unspeakable:
    """An object that cannot even be shown."""

    def __repr__(self):
        raise RuntimeError("no")


class Case:
    """What hypothesis has drawn; it would show it by its repr."""

    def __init__(self, arguments):
        self.arguments = arguments


class Text(str):
    """A str of another class, as some libraries have them."""


TEXTS = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(), max_size=5),  # lone surrogates among them
    st.sampled_from(["", " ", "\0", "good film", "[SEP]", "bad " * 200, "\ud800"]),
    st.text(max_size=5).map(np.str_),
    st.text(max_size=5).map(Text),
)
SCALARS = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.binary(max_size=5),
    st.complex_numbers(),
    st.sampled_from([pd.NA, pd.NaT, np.float32(1), np.datetime64("2020-01-01")]),
    st.builds(Unspeakable),
    st.builds(object),
)
NESTED = st.one_of(
    st.lists(st.text(max_size=3), max_size=3),
    st.tuples(st.text(max_size=3)),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
    st.sets(st.integers(), max_size=2),
)
SINGLE_CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "array": lambda cells: as_objects([cells]).ravel(),
    "column": lambda cells: as_objects([cells]).T,
    "Series": lambda cells: pd.Series(as_objects([cells]).ravel(), dtype=object),
    "frame": lambda cells: pd.DataFrame(as_objects([cells]).T, dtype=object),
}
PAIR_CONTAINERS = {
    "list of tuples": lambda rows: [tuple(row) for row in rows],
    "list of lists": lambda rows: [list(row) for row in rows],
    "array": lambda rows: as_objects(rows),
    "frame": lambda rows: pd.DataFrame(as_objects(rows), dtype=object),
}


def as_objects(rows):
    """Cells in an array, whatever they are."""
    array = np.empty((len(rows), len(rows[0])), dtype=object)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            array[i, j] = cell
    return array


@st.composite
def singles(draw):
    """A container of texts, and the first row that is none."""
    cells = draw(st.lists(TEXTS, min_size=1, max_size=6))
    kind = draw(st.sampled_from(sorted(SINGLE_CONTAINERS)))
    bad = draw(st.one_of(st.none(), st.integers(0, len(cells) - 1)))
    if bad is not None:
        # A list or tuple that comes first makes a sequence one of rows with columns.
        nested = st.nothing() if bad == 0 and kind in ("list", "tuple") else NESTED
        cells[bad] = draw(st.one_of(SCALARS, nested))
    return SINGLE_CONTAINERS[kind](cells), len(cells), bad


@st.composite
def pairs(draw):
    """A container of pairs, and the first row that is none."""
    rows = [list(row) for row in draw(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))]
    kind = draw(st.sampled_from(sorted(PAIR_CONTAINERS)))
    bad = draw(st.one_of(st.none(), st.integers(0, len(rows) - 1)))
    if bad is not None:
        rows[bad][draw(st.integers(0, 1))] = draw(st.one_of(SCALARS, NESTED))
    X = PAIR_CONTAINERS[kind](rows)
    if bad is None and len(rows) > 1 and isinstance(X, list) and draw(st.booleans()):
        bad = draw(st.integers(1, len(rows) - 1))
        X[bad] = draw(st.one_of(st.just(("a",)), st.just(("a", "b", "c")), TEXTS, SCALARS))
    return X, len(rows), bad


@pytest.fixture(scope="module")
def fitted(make_classifier, reviews):
    texts, labels = map(list, reviews)
    return {
        "single": make_classifier().fit(texts, labels),
        "pair": make_classifier().fit(list(zip(texts, texts, strict=True)), labels),
    }


def run(case, count, strategy):
    """Let hypothesis try `count` cases; returns how many were answered, and how many refused."""
    seen = []
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    options = settings(max_examples=count, deadline=None, suppress_health_check=checks, database=None)
    options(given(strategy.map(Case))(lambda drawn: seen.append(case(*drawn.arguments))))()
    return seen.count(True), seen.count(False)


@pytest.mark.stress
@pytest.mark.parametrize("kind", ["single", "pair"])
def test_any_input_of_a_prediction(kind, fitted, full_count, figure):
    classifier = fitted[kind]
    before = dict(vars(classifier))

    def ask(method, given):
        X, n_rows, bad = given
        if bad is None:
            answer = getattr(classifier, method)(X)
            assert len(answer) == n_rows
            assert method == "predict" or np.isfinite(answer).all()
            return True
        with pytest.raises((ValueError, TypeError), match=rf"(?i)\brow {bad}\b"):
            getattr(classifier, method)(X)
        return False

    inputs = singles() if kind == "single" else pairs()
    n = full_count(150, 4700)
    answered, refused = run(ask, n, st.tuples(st.sampled_from(METHODS), inputs))
    figure(f"random inputs of a prediction, {kind}", answered + refused, f"{refused} refused by their row")
    assert min(answered, refused) >= n // 50
    assert vars(classifier) == before


@pytest.mark.stress
@pytest.mark.filterwarnings("ignore::skbert.TruncationWarning")
def test_any_input_of_a_fit(make_classifier, full_count, figure):
    classifier = make_classifier(epochs=1, max_length=16, head_init="random")
    classifier.fit(["a", "b"], [0, 1])

    def fit(given):
        X, n_rows, bad = given
        y = [number % 2 for number in range(n_rows)]
        before = dict(vars(classifier))
        if bad is None and n_rows > 1:
            assert len(classifier.fit(X, y).predict(X)) == n_rows
            return True
        said = r"classes|class\b" if bad is None else rf"(?i)\brow {bad}\b"
        with pytest.raises((ValueError, TypeError), match=said):
            classifier.fit(X, y)
        assert vars(classifier) == before
        return False

    n = full_count(20, 600)
    fitted, refused = run(fit, n, st.tuples(singles() | pairs()))
    figure("random inputs of a fit", fitted + refused, f"{refused} refused by their row")
    assert min(fitted, refused) >= n // 50  # a few cases may all be of one kind


ANYTHING = st.recursive(
    st.one_of(SCALARS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=2),
        st.lists(inner, max_size=3).map(iter),
        st.lists(st.floats(), max_size=4).map(np.array),
        st.lists(st.text(max_size=3), min_size=1, max_size=3).map(pd.Index),
        st.just(np.zeros((2, 2, 2))),
        st.just(pd.DataFrame()),
    ),
    max_leaves=8,
)


@pytest.mark.stress
def test_anything_at_all(fitted, full_count, figure):
    def ask(X, method):
        try:
            getattr(fitted["single"], method)(X)
        except (ValueError, TypeError):
            return False
        return True

    answered, refused = run(ask, full_count(100, 1000), st.tuples(ANYTHING, st.sampled_from(METHODS)))
    figure("objects of any kind as X", answered + refused, f"{refused} refused")
    assert refused > 0
