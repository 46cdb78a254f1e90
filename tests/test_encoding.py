"""Tokens, special tokens and truncation against transformers' own tokenizers."""

import json
from itertools import pairwise

import numpy as np
import pytest
from checkpoints import FAMILIES, load_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from skbert import InputError
from skbert.data.encoding import encode, truncate_longest_first
from skbert.data.inputs import Texts
from skbert.pretrained import checkpoints

WORDS = ["good", "film", "the", "zebra9", "é", "!", "😀", "rain"]
FIRST = [" ".join(WORDS[: i % 9] * (i % 5)) for i in range(40)]
SECOND = [" ".join(WORDS[i % 8 :] * (i % 4)) for i in range(40)]


def reference(folder, columns, max_length):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    output = tokenizer(*columns, truncation="longest_first", max_length=max_length)
    return output["input_ids"], output.get("token_type_ids")


def rows_of(flat, offsets):
    return [part.tolist() for part in np.split(flat, offsets[1:-1])]


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    return load_tokenizer(tiny_bert)


@pytest.mark.parametrize("max_length", [8, 13, 64])
@pytest.mark.parametrize("columns", [[FIRST], [FIRST, SECOND]], ids=["single", "pairs"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_equal_transformers_tokenizer(family, columns, max_length, tiny_checkpoints):
    folder = tiny_checkpoints(family)
    tokenizer = load_tokenizer(folder)
    encodings = encode(tokenizer, Texts(*columns), max_length)
    ids, segments = reference(folder, columns, max_length)
    assert rows_of(encodings.ids, encodings.offsets) == ids
    if segments is not None:
        assert rows_of(encodings.segments, encodings.offsets) == segments
    assert encodings.ids.dtype == np.int32
    assert encodings.lengths.max() <= max_length


def test_truncated_names_the_texts_that_lost_tokens(tokenizer):
    encodings = encode(tokenizer, Texts(["good " * 6, "good " * 7, "", "good"]), 8)
    assert encodings.lengths.tolist() == [8, 8, 2, 3]
    assert encodings.truncated.tolist() == [False, True, False, False]


@given(
    first=st.lists(st.integers(0, 30), min_size=1, max_size=20),
    budget=st.integers(0, 25),
    data=st.data(),
)
def test_longest_first_equals_taking_tokens_one_by_one(first, budget, data):
    second = data.draw(st.lists(st.integers(0, 30), min_size=len(first), max_size=len(first)))
    kept = truncate_longest_first(np.array([first, second]), budget)
    for a, b, kept_a, kept_b in zip(first, second, *kept, strict=True):
        assert kept_a <= a
        assert kept_b <= b
        assert kept_a + kept_b == min(a + b, budget)
        # Cutting one token at a time from the longer side ends with sides that differ by one at most,
        # unless a side was never cut.
        if kept_a < a:
            assert kept_a + 1 >= kept_b
        if kept_b < b:
            assert kept_b + 1 >= kept_a


def test_a_text_of_nothing_is_named(tokenizer):
    """Where the checkpoint puts no special tokens around texts, an empty one would be no row at all."""
    without = json.loads(tokenizer.to_str()) | {"post_processor": None}
    bare = checkpoints.new_tokenizer(json.dumps(without))
    assert np.diff(encode(bare, Texts(["good film"]), 8).offsets).tolist() == [2]
    with pytest.raises(InputError, match=r"The text '  ' has no tokens.*Leave such texts out"):
        encode(bare, Texts(["good", "  "]), 8)
    assert np.diff(encode(bare, Texts(["good", "  "], ["", "film"]), 8).offsets).tolist() == [1, 1]


@settings(max_examples=200)
@given(st.lists(st.text(), min_size=1, max_size=8))
def test_every_text_has_an_encoding(tokenizer, texts):
    encodings = encode(tokenizer, Texts(texts), 16)
    assert len(encodings) == len(texts)
    assert encodings.lengths.min() >= 2
    assert encodings.lengths.max() <= 16


def test_lone_surrogates_are_replaced_and_pairs_joined(tokenizer):
    odd = encode(tokenizer, Texts(["good \ud800 film", "fine \ud83d\ude00"]), 64)
    plain = encode(tokenizer, Texts(["good � film", "fine 😀"]), 64)
    assert odd.ids.tolist() == plain.ids.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_very_long_text_gives_the_first_tokens_of_the_whole(family, tiny_checkpoints):
    folder = tiny_checkpoints(family)
    tokenizer = load_tokenizer(folder)
    text = " ".join(f"good{i} film the" for i in range(3000))
    encodings = encode(tokenizer, Texts([text]), 64)
    assert encodings.ids.tolist() == reference(folder, [[text]], 64)[0][0]
    assert encodings.truncated.tolist() == [True]


def test_a_long_text_of_few_tokens_is_not_called_truncated(tokenizer):
    encodings = encode(tokenizer, Texts(["good" + " " * 100_000 + "film"]), 16)
    assert encodings.lengths.tolist() == [4]
    assert not encodings.truncated[0]


def test_encoding_changes_nothing_in_the_tokenizer(tokenizer):
    before = tokenizer.to_str()
    encode(tokenizer, Texts(FIRST, SECOND), 8)
    assert tokenizer.to_str() == before
    assert tokenizer.truncation is None
    assert tokenizer.padding is None


# --- Long texts ---


def words_of(tokenizer, encodings):
    return [
        tokenizer.decode(row, skip_special_tokens=True).split()
        for row in rows_of(encodings.ids, encodings.offsets)
    ]


def numbered(n):
    """A text of n different one-token words."""
    from checkpoints import WORDS

    return WORDS[:n]


def test_head_tail_keeps_a_quarter_and_the_end(tokenizer):
    words = numbered(40)
    encodings = encode(tokenizer, Texts([" ".join(words), "good film"]), 18, "head_tail")
    kept, short = words_of(tokenizer, encodings)
    assert kept == words[:4] + words[-12:]
    assert short == ["good", "film"]
    assert encodings.truncated.tolist() == [True, False]


@pytest.mark.parametrize("n_words", [1, 16, 17, 24, 25, 40, 41, 100])
def test_windows_cover_the_text_and_overlap_by_half(n_words, tokenizer):
    words = numbered(n_words)
    encodings = encode(tokenizer, Texts(["", " ".join(words), "good"]), 18, "windows")
    rows = words_of(tokenizer, encodings)
    assert encodings.owners.tolist() == [0] + [1] * (len(rows) - 2) + [2]
    windows = rows[1:-1]
    assert [len(w) for w in windows] == [min(16, n_words)] * len(windows)
    starts = [words.index(w[0]) for w in windows]
    assert windows == [words[s : s + 16] for s in starts]
    assert windows[-1][-1] == words[-1]
    assert all(0 < b - a <= 8 for a, b in pairwise(starts))
    assert set(np.diff(starts[:-1]).tolist()) <= {8}
    assert not encodings.truncated.any()


def test_windows_of_a_pair_slide_over_its_longer_side(tokenizer):
    words = numbered(30)
    encodings = encode(tokenizer, Texts(["good film"], [" ".join(words)]), 19, "windows")
    rows = rows_of(encodings.ids, encodings.offsets)
    assert len(rows) > 1
    first = tokenizer.encode("good film", add_special_tokens=False).ids
    seen = []
    for row, segments in zip(rows, rows_of(encodings.segments, encodings.offsets), strict=True):
        assert row[1:3] == first
        assert segments == [0] * 4 + [1] * (len(row) - 4)
        seen += tokenizer.decode(row[4:-1]).split()
    assert set(seen) == set(words)
    assert not encodings.truncated.any()


def test_average_windows(tokenizer):
    encodings = encode(tokenizer, Texts(["good", " ".join(numbered(24)), "bad"]), 18, "windows")
    assert encodings.owners.tolist() == [0, 1, 1, 2]
    means = encodings.average_windows(np.array([[1.0, 2], [3, 4], [5, 8], [7, 7]]))
    assert means.tolist() == [[1, 2], [4, 6], [7, 7]]


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=6), st.sampled_from(["head", "head_tail", "windows"])
)
@settings(max_examples=60)
def test_rows_never_exceed_the_length_and_every_text_has_one(tokenizer, sizes, long_text):
    texts = Texts([" ".join(numbered(n)) for n in sizes])
    encodings = encode(tokenizer, texts, 16, long_text)
    assert encodings.lengths.max() <= 16
    assert sorted(set(encodings.owners.tolist())) == list(range(len(sizes)))
    assert encodings.truncated.tolist() == [n > 14 and long_text != "windows" for n in sizes]


def test_windows_of_a_pair_slide_over_the_second_side_if_it_is_longer_by_one(tokenizer):
    """Both lose the same number of tokens."""
    words = numbered(23)
    encodings = encode(tokenizer, Texts([" ".join(words[:11])], [" ".join(words[11:])]), 16, "windows")
    seen = {word for row in words_of(tokenizer, encodings) for word in row}
    assert seen == {*words[:6], *words[11:]}


def test_windows_of_a_pair_slide_over_the_first_side_if_they_are_of_one_length(tokenizer):
    """The odd token that is left goes to the second."""
    words = numbered(24)
    encodings = encode(tokenizer, Texts([" ".join(words[:12])], [" ".join(words[12:])]), 16, "windows")
    seen = {word for row in words_of(tokenizer, encodings) for word in row}
    assert seen == {*words[:12], *words[12:19]}
    assert encodings.truncated.all()
