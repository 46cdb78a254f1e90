"""Bars of passes over texts."""

import io
import os
import sys

import numpy as np
import pytest

from skbert import frozen, progress
from skbert.progress import SILENT, Progress


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)


def last_line(capfd):
    shown = capfd.readouterr()
    assert shown.out == ""
    return shown.err.rstrip().split("\r")[-1].split("\n")[-1]


def test_a_bar_moves_by_parts_of_texts(at_once, capfd):
    with Progress("embed", 3, 1) as bar:
        for _ in range(5):
            bar.move(0.6)
    line = last_line(capfd)
    assert line.startswith("embed: 100%")
    assert "3/3" in line


def test_a_bar_ends_where_an_error_came(at_once, capfd):
    def interrupted():
        with Progress("embed", 4, 1) as bar:
            bar.move(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "1/4" in last_line(capfd)


def test_what_is_quick_or_silent_shows_nothing(capfd):
    for bar in (Progress("embed", 3, 1), Progress("embed", 3, 0), SILENT):
        with bar:
            bar.move(3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("long_text", ["head", "windows"])
def test_predictions_are_one_bar_over_all_rows(
    long_text, at_once, make_classifier, reviews, capfd, monkeypatch
):
    """Also where texts are given twice, and where chunks are small."""
    from skbert.data import chunks

    texts, labels = map(list, reviews)
    model = make_classifier(long_text=long_text, max_length=8).fit(texts, labels)
    monkeypatch.setattr(chunks, "_TEXTS", 5)
    monkeypatch.setattr(chunks, "_ROWS", 20)
    assert capfd.readouterr() == ("", "")
    model.set_params(verbose=1).predict(texts + texts[:7])
    shown = capfd.readouterr().err
    assert shown.count("\n") == 1
    assert "predict: 100%" in shown
    assert "31/31" in shown
    model.transform(texts)
    assert "embed: 100%" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("parameters", "what"), [({"head_init": "linear_probe"}, "embed"), ({"freeze": 1}, "frozen layers")]
)
def test_passes_before_a_fit_are_shown(parameters, what, at_once, make_classifier, reviews, capfd):
    texts, labels = [f"{text} {what}" for text in reviews[0]], list(reviews[1])  # that no cache has
    make_classifier(verbose=1, **{"head_init": "random"} | parameters).fit(texts, labels)
    shown = capfd.readouterr().err
    assert f"{what}: 100%" in shown
    assert "24/24" in shown


@pytest.mark.parametrize(
    ("parameters", "what"), [({"freeze": "encoder"}, "embed"), ({"freeze": 1}, "frozen layers")]
)
def test_a_pass_in_blocks_is_one_bar(parameters, what, at_once, make_classifier, reviews, capfd, monkeypatch):
    monkeypatch.setattr(frozen, "_BLOCK_BYTES", 5000)
    monkeypatch.setattr(frozen.Cache.rows, "__defaults__", (5,))
    texts, labels = [f"{text} in blocks {what}" for text in reviews[0]], list(reviews[1])
    make_classifier(verbose=1, head_init="random", **parameters).fit(texts, labels)
    shown = [line.split("\r")[-1] for line in capfd.readouterr().err.split("\n")]
    bars = [line for line in shown if line.startswith(f"{what}:")]
    assert len(bars) == 1
    assert "24/24" in bars[0]


def test_validation_is_shown(at_once, make_classifier, reviews, capfd):
    texts, labels = map(list, reviews)
    make_classifier(verbose=1).fit(texts, labels, X_val=texts[:6], y_val=labels[:6])
    shown = capfd.readouterr().err
    assert shown.count("validate: 100%") == 3, "before the first step, and after each epoch"
    assert "6/6" in shown


# As tqdm 4.66 deletes a bar that could not begin.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_has_to_read_the_bar(at_once, monkeypatch):
    """As where stderr goes through a pipe to a program that has ended."""
    read, write = os.pipe()
    os.close(read)
    stream = open(write, "w")  # noqa: SIM115  # its end fails, and is expected to
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress("embed", 3, 1) as shown:
        for _ in range(3):
            shown.move(1)
    bar = progress.Bar(total=3)
    bar.update(2)
    bar.note(loss="0.5")
    bar.close()
    assert bar.n == 2
    with pytest.raises(BrokenPipeError):
        stream.close()


class Closing(io.StringIO):
    """A stream that is closed after a few writes, as those of tests and services are."""

    def write(self, text):
        super().write(text)
        if self.tell() > 200:
            self.close()


class Failing(io.StringIO):
    def write(self, text):
        raise RuntimeError("nobody is connected")


# As tqdm 4.66 deletes a bar that could not begin.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("make", [lambda: None, io.BytesIO, Closing, Failing])
def test_a_stream_that_takes_no_text_costs_no_fit(make, at_once, make_classifier, reviews, monkeypatch):
    expected = make_classifier(epochs=2).fit(*reviews).predict_proba(["good"])
    monkeypatch.setattr(sys, "stderr", make())
    classifier = make_classifier(epochs=2, verbose=1).fit(*reviews)
    np.testing.assert_array_equal(classifier.predict_proba(["good"]), expected)
