"""Large inputs a part at a time."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from checkpoints import load_tokenizer

from skbert import frozen
from skbert.data import chunks, encoding
from skbert.data.inputs import Texts

TEXTS = Texts([f"good film {i}" + " sea" * (i % 7) for i in range(25)])


@pytest.fixture
def tokenizer(tiny_bert):
    return load_tokenizer(tiny_bert)


@pytest.mark.parametrize("size", [1, 7, 25, 100])
@pytest.mark.parametrize("texts", [TEXTS, Texts(TEXTS.first, TEXTS.first[::-1])])
def test_chunks_are_the_whole(size, texts, tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "_TEXTS", size)
    found = list(chunks.encode_in_chunks(tokenizer, texts, 12, "windows"))
    assert [chunk.places is None for chunk in found] == [True] * (len(found) - 1) + [False]
    np.testing.assert_array_equal(found[-1].places, np.arange(25))
    parts = [chunk.encodings for chunk in found]
    whole = encoding.encode(tokenizer, texts, 12, "windows")
    assert [len(part.truncated) for part in parts[:-1]] == [size] * (len(parts) - 1)
    np.testing.assert_array_equal(np.concatenate([part.ids for part in parts]), whole.ids)
    np.testing.assert_array_equal(np.concatenate([part.segments for part in parts]), whole.segments)
    np.testing.assert_array_equal(np.concatenate([part.lengths for part in parts]), whole.lengths)


def test_the_next_chunk_is_encoded_meanwhile_and_no_more(tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "_TEXTS", 5)
    started = [threading.Event() for _ in range(6)]

    def counted(*arguments):
        next(e for e in started if not e.is_set()).set()
        return encoding.encode(*arguments)

    monkeypatch.setattr(chunks, "encode", counted)
    parts = chunks.encode_in_chunks(tokenizer, TEXTS, 32, "head")
    next(parts)
    assert started[1].wait(timeout=60)  # without being asked for
    assert not started[2].is_set()
    parts.close()


@pytest.mark.parametrize("window", [1, 4, 9, 100])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_each_different_text_of_a_window_once_and_every_row_its_result(size, window, tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "_TEXTS", size)
    monkeypatch.setattr(chunks, "_ROWS", window)
    rows = [f"good film {i}" for i in np.random.default_rng(0).integers(0, 6, size=30)]
    seen = []

    def run(encodings):
        seen.append(len(encodings))
        firsts = encodings.ids[encodings.offsets[1:] - 2]  # the last word of each text
        return np.stack([firsts, firsts * 2], axis=1)

    results = chunks.results_of_rows(chunks.encode_in_chunks(tokenizer, Texts(rows), 12, "head"), 30, run)
    words = [tokenizer.encode(row, add_special_tokens=False).ids[-1] for row in rows]
    np.testing.assert_array_equal(results, np.stack([words, np.multiply(words, 2)], axis=1))
    windows = [rows[start : start + window] for start in range(0, 30, window)]
    assert sum(seen) == sum(len(set(some)) for some in windows)
    assert max(seen) <= size


def test_what_runs_may_give_one_number_a_text(tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "_ROWS", 10)
    found = chunks.encode_in_chunks(tokenizer, TEXTS, 32, "head")
    lengths = chunks.results_of_rows(found, 25, lambda encodings: encodings.lengths)
    np.testing.assert_array_equal(lengths, encoding.encode(tokenizer, TEXTS, 32).lengths)


def test_numbers_of_several_windows_stay_as_exact(tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "_ROWS", 10)
    found = chunks.encode_in_chunks(tokenizer, TEXTS, 32, "head")
    results = chunks.results_of_rows(found, 25, lambda encodings: encodings.lengths / 3)
    np.testing.assert_array_equal(results, encoding.encode(tokenizer, TEXTS, 32).lengths / 3)


def test_an_error_in_the_thread_is_raised(tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "_TEXTS", 5)
    bad = Texts([*TEXTS.first[:-1], None])
    with pytest.raises((TypeError, AttributeError)):
        list(chunks.encode_in_chunks(tokenizer, bad, 32, "head"))


def test_predictions_do_not_depend_on_chunks(make_classifier, reviews, monkeypatch):
    classifier = make_classifier().fit(*map(list, reviews))
    texts = [*TEXTS.first, *reviews[0], *reviews[0]]
    whole = classifier.predict_proba(texts)
    monkeypatch.setattr(chunks, "_TEXTS", 6)
    parts = classifier.predict_proba(texts)
    np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(parts[-24:], parts[-48:-24])  # equal texts run once, whatever their chunk
    monkeypatch.setattr(chunks, "_ROWS", 10)
    for method in ("predict_proba", "predict_log_proba", "decision_function", "transform"):
        expected = getattr(classifier, method)(texts)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "_ROWS", 1_000)
            whole = getattr(classifier, method)(texts)
        np.testing.assert_allclose(expected, whole, rtol=1e-5, atol=1e-6)
        assert expected.dtype == whole.dtype


def test_no_thread_outlives_a_prediction(make_classifier, reviews, monkeypatch):
    """Also where the exception that ended it is kept, and with it all frames."""
    classifier = make_classifier().fit(*map(list, reviews))
    monkeypatch.setattr(chunks, "_TEXTS", 5)
    before = threading.active_count()
    classifier.predict(TEXTS.first)
    assert threading.active_count() == before

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(frozen, "run_with_cached_vectors", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        classifier.predict(TEXTS.first)
    assert caught.value.__traceback__ is not None
    assert threading.active_count() == before


LATE = """
import sys, threading
from skbert.data import chunks
from skbert.data.inputs import Texts
from skbert.pretrained import checkpoints

tokenizer = checkpoints.new_tokenizer(checkpoints.load(sys.argv[1]).tokenizer_json)
chunks._TEXTS = 5


def job():
    threading.main_thread().join()
    texts = Texts([f"good {n}" for n in range(23)])
    print(sum(len(part.encodings) for part in chunks.encode_in_chunks(tokenizer, texts, 32, "head")))


threading.Thread(target=job).start()
"""


def test_a_thread_that_outlives_the_main_thread_goes_on(tiny_bert):
    """Python begins no job in another thread then."""
    done = subprocess.run([sys.executable, "-c", LATE, tiny_bert], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "23"
