"""Every text has its tokens: very long ones, odd ones, many; in bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import FAMILIES, WORDS
from hypothesis import given, settings
from hypothesis import strategies as st
from long_texts import LONG, SENTENCE
from saved_model import SAVED
from tokenizers import AddedToken, Regex, Tokenizer, normalizers

from skbert import BertClassifier
from skbert.data import tokenizing
from skbert.data.encoding import encode
from skbert.data.inputs import Texts
from skbert.data.tokenizing import tokenize

ODD = {
    "empty": "",
    "blanks": " \t\n\u00a0\u3000 ",
    "NUL": "good\0film\0",
    "emoji": "a 😀👩‍👩‍👧‍👦🏳️‍🌈 day",
    "right-to-left": "كتاب جيد שלום \u202eabc\u202c",
    "combining marks": "e\u0301" * 5 + " Z\u0351\u036b\u0343\u036a\u0302a\u0334lgo",
    "lone surrogates": "good \ud800 film \udfff",
    "surrogate pair": "good \ud83d\ude00 film",
    "controls": "".join(map(chr, range(32))) + "\x7f\u200b\ufeff\ufffe",
    "special tokens": "[CLS] [SEP] <s> </s> [MASK] <pad>",
    "a word of 300 letters": "x" * 300,
    "no spaces": "好電影" * 40,
}


def whole(tokenizer, text):
    """Ids of a text that goes to the tokenizer at once, without skbert."""
    return tokenizer.encode(text, add_special_tokens=False).ids


# Pieces

_PARTS = st.one_of(
    st.sampled_from(
        [
            " ".join(WORDS[:60]),
            " ",
            " " * 40,
            " \n  ",
            "\n",
            "! ",
            "x" * 300,
            "好電影",
            "e\u0301",
            "a" * 50,
            "\u3000",
        ]
    ),
    st.text(max_size=12).map(lambda t: t.encode("utf-8", "replace").decode()),
)


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.tuples(_PARTS, st.integers(1, 30)), min_size=2, max_size=12),
    family=st.sampled_from(FAMILIES),
)
def test_pieces_have_the_ids_of_the_whole(parts, family, tokenizers):
    text = "".join(part * times for part, times in parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizing, "_PIECE", 700)
        ids, offsets = tokenize(tokenizers[family], [text, "good", text], None)
    expected = whole(tokenizers[family], text)
    assert ids[: offsets[1]].tolist() == expected
    assert ids[offsets[2] :].tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.tuples(_PARTS, st.integers(1, 200)), min_size=2, max_size=12),
    family=st.sampled_from(FAMILIES),
    needed=st.integers(1, 300),
)
def test_a_beginning_has_the_first_ids_of_the_whole(parts, family, needed, tokenizers):
    text = "".join(part * times for part, times in parts)
    ids, _ = tokenize(tokenizers[family], [text], needed)
    expected = whole(tokenizers[family], text)
    assert ids[:needed].tolist() == expected[:needed]
    assert (len(ids) > needed) == (len(expected) > needed)


def collapsing(tokenizer):
    """As XLM-R's: several spaces are one."""
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )


def with_tokens_of_spaces(tokenizer):
    """As ModernBERT's: up to 24 spaces are a token."""
    tokenizer.add_tokens([AddedToken(" " * n, normalized=False) for n in range(24, 1, -1)])


@pytest.mark.parametrize(
    ("family", "change"),
    [("xlm-roberta", collapsing), ("deberta-v2", collapsing), ("modernbert", with_tokens_of_spaces)],
)
@pytest.mark.parametrize("width", [2, 25, 300, 701, 900, 5000])
def test_columns_that_lie_far_apart(family, change, width, tokenizers):
    """Runs of spaces are not cut, where a tokenizer makes one thing of them."""
    tokenizer = Tokenizer.from_str(tokenizers[family].to_str())
    change(tokenizer)
    for words in ("good film", "good the", "x" * 300):
        text = (words + " " * width) * (20_000 // (width + len(words)) + 1) + "bad"
        for needed in (None, 254):
            ids, _ = tokenize(tokenizer, [text], needed)
            assert ids[:needed].tolist() == whole(tokenizer, text)[:needed]


def test_calls_are_bounded_and_long_texts_go_alone(monkeypatch):
    monkeypatch.setattr(tokenizing, "_TEXTS", 8)
    monkeypatch.setattr(tokenizing, "_PIECE", 50)
    draw = np.random.default_rng(0)
    for _ in range(200):
        lengths = draw.choice([0, 1, 5, 19, 20, 21, 45, 200], size=draw.integers(0, 30))
        texts = ["x" * length for length in lengths]
        calls = list(tokenizing._calls(texts, 20))
        assert [text for call in calls for text in call] == texts
        for call in calls:
            assert 0 < len(call) <= 8
            assert len(call) == 1 or max(map(len, call)) <= 20
            assert len(call) == 1 or sum(map(len, call)) <= 50
    assert [len(call) for call in tokenizing._calls(["x"] * 20, 20)] == [8, 8, 4]


def test_no_text_has_no_ids(tokenizers):
    ids, offsets = tokenize(tokenizers["bert"], [], None)
    assert ids.dtype == np.int32
    assert (len(ids), offsets.tolist()) == (0, [0])


def test_a_surrogate_pair_is_not_cut(tokenizers):
    text = "\ud83d\ude00" * tokenizing._PIECE
    ids, _ = tokenize(tokenizers["roberta"], [text], None)
    assert len(set(ids.tolist())) == 4  # the bytes of one character
    assert len(ids) == 4 * tokenizing._PIECE


# Texts of ten megabytes (of one in the default run)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
_CODE = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parents[1]))
from long_texts import LONG, peak_of
from skbert import BertClassifier
from skbert.data.encoding import encode
from skbert.data.inputs import Texts
tokenizer = BertClassifier.load(sys.argv[1]).tokenizer_
for long_text in ("head", "head_tail", "windows"):
    encode(tokenizer, Texts(["good " * 100]), 64, long_text)
    for kind in LONG if long_text == "head" else ("words",):
        text = LONG[kind][: int(sys.argv[2])]
        begin = time.process_time()
        rows, megabytes = peak_of(lambda: encode(tokenizer, Texts([text]), 64, long_text))
        seconds = time.process_time() - begin
        print(json.dumps([long_text, kind, rows.ids[:64].tolist(), len(rows), megabytes, seconds]))
"""


@pytest.fixture(scope="module")
def size(full_count):
    """Characters of a text: a whole number of sentences."""
    return full_count(29_500, 295_000) * SENTENCE


@pytest.fixture(scope="module")
def measured(size):
    """For each way to read and each kind: first ids, rows, megabytes more than before, CPU seconds."""
    arguments = [sys.executable, "-c", _CODE, SAVED, str(size)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return {(how, kind): rest for how, kind, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def tokenizer():
    return BertClassifier.load(SAVED).tokenizer_


@pytest.mark.stress
@on_linux
@pytest.mark.parametrize("kind", LONG)
def test_a_very_long_text_of_which_the_beginning_is_needed(kind, size, measured, tokenizer, figure):
    ids, n_rows, megabytes, seconds = measured["head", kind]
    figure(
        f"characters in a text, {kind}",
        min(size, len(LONG[kind])),
        f"{megabytes:.0f} MB, {seconds:.1f} s CPU",
    )
    # A long enough beginning of these has the same first ids; a single word of it is one as well.
    assert ids == encode(tokenizer, Texts([LONG[kind][:30_000]]), 64).ids.tolist()
    assert n_rows == 1
    assert megabytes < 100
    assert seconds < (0.5 if kind == "words" else 15)


@pytest.mark.stress
@on_linux
@pytest.mark.parametrize("long_text", ["head_tail", "windows"])
def test_a_very_long_text_of_which_all_is_needed(long_text, size, measured, tokenizer, figure):
    ids, n_rows, megabytes, seconds = measured[long_text, "words"]
    figure(f"characters in a text, {long_text}", size, f"{megabytes:.0f} MB, {seconds:.1f} s CPU")
    sentence = whole(tokenizer, LONG["words"][:SENTENCE])
    kept = 15 if long_text == "head_tail" else 62
    assert ids[1 : 1 + kept] == (sentence * 62)[:kept]
    n_ids = size // SENTENCE * len(sentence)
    assert n_rows == (1 if long_text == "head_tail" else 1 + -(-(n_ids - 62) // 31))
    assert megabytes < 600
    assert seconds < 60


# Odd texts


@pytest.mark.parametrize("family", FAMILIES)
def test_odd_texts_have_the_ids_that_the_tokenizer_gives_them(family, tokenizers):
    tokenizer = tokenizers[family]
    odd = {kind: text for kind, text in ODD.items() if kind != "special tokens"}  # tests/test_literal.py
    ids, offsets = tokenize(tokenizer, list(odd.values()), None)
    for number, text in enumerate(odd.values()):
        repaired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert ids[offsets[number] : offsets[number + 1]].tolist() == whole(tokenizer, repaired)


def test_odd_texts_can_be_fitted_and_predicted(make_classifier):
    texts = list(ODD.values())
    classifier = make_classifier(epochs=1, max_length=128).fit(
        texts, [number % 2 for number in range(len(texts))]
    )
    p = classifier.predict_proba(texts)
    assert np.isfinite(p).all()
    alone = np.concatenate([classifier.predict_proba([text]) for text in texts])
    np.testing.assert_allclose(p, alone, atol=1e-6)
    replaced = classifier.predict_proba(["good \ufffd film \ufffd", "good 😀 film"])
    same = [list(ODD).index(kind) for kind in ("lone surrogates", "surrogate pair")]
    np.testing.assert_allclose(replaced, p[same], rtol=1e-6)  # in another batch


@pytest.mark.stress
def test_a_million_empty_texts(make_classifier, reviews, figure):
    import time

    classifier = make_classifier().fit(*map(list, reviews))
    begin = time.process_time()
    p = classifier.predict_proba([""] * 1_000_000)
    seconds = time.process_time() - begin
    figure("empty texts predicted at once", len(p), f"{seconds:.1f} s CPU")
    assert p.shape == (1_000_000, 2)
    assert np.array_equal(p, np.broadcast_to(classifier.predict_proba([""]), p.shape))
    assert seconds < 10  # each different text once
