"""Large inputs a part at a time."""

import threading

import numpy as np
import pytest

from skbert.data import chunks, encoding
from skbert.data.inputs import Texts
from skbert.pretrained import checkpoints

TEXTS = Texts([f"good film {i}" + " sea" * (i % 7) for i in range(25)])


@pytest.fixture
def tokenizer(tiny_bert):
    return checkpoints.new_tokenizer(checkpoints.load(tiny_bert).tokenizer_json)


@pytest.mark.parametrize("size", [1, 7, 25, 100])
@pytest.mark.parametrize("texts", [TEXTS, Texts(TEXTS.first, TEXTS.first[::-1])])
def test_chunks_are_the_whole(size, texts, tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "_TEXTS", size)
    parts = list(chunks.encode_in_chunks(tokenizer, texts, 12, "windows"))
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
