"""Special tokens that stand in a text are text."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoints import FAMILIES
from tokenizers import AddedToken, Tokenizer, models

from skbert.data import literal
from skbert.data.tokenizing import tokenize

SPECIAL = ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "<s>", "</s>", "<pad>", "<mask>"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["{}", "good {} film", "x{}y", "<s>{}</s>", "{}{} the"])
def test_no_text_has_special_ids(form, family, tokenizers):
    tokenizer = tokenizers[family]
    texts = ["a good film", *(form.format(*[token] * form.count("{}")) for token in SPECIAL), "the end"]
    ids, offsets = tokenize(tokenizer, texts, None)
    assert not np.isin(ids, literal.special_ids(tokenizer)).any()
    for number in (0, len(texts) - 1):  # the texts beside them are what they were
        plain = tokenizer.encode(texts[number], add_special_tokens=False).ids
        assert ids[offsets[number] : offsets[number + 1]].tolist() == plain


def test_pieces_of_a_unigram_vocabulary(tokenizers):
    """As in XLM-R, whose vocabulary holds the control symbols, with the best score of all."""
    tokenizer = tokenizers["xlm-roberta"]
    assert isinstance(tokenizer.model, models.Unigram)
    assert "</s>" in tokenizer.encode("x</s>y", add_special_tokens=False).tokens  # what is mended
    ids, _ = tokenize(tokenizer, ["good x</s>y"], None)
    assert list(map(tokenizer.id_to_token, ids)) == ["▁good", "▁", "x", "<", "/", "s", ">", "y"]


def test_words_of_a_vocabulary_and_tokens_that_are_not_special():
    """A vocabulary of whole words knows no other characters; tokens that are not special stay."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[SEP]": 1, "good": 2}, unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken("[SEP]")])
    tokenizer.add_tokens(["film star"])
    tokenizer.encode_special_tokens = True
    assert literal.special_ids(tokenizer).tolist() == [1]
    assert tokenize(tokenizer, ["[SEP]", "good"], None)[0].tolist() == [0, 2]
    assert literal.without_special(tokenizer, ["film star[SEP]", "[SEP]good"]) == [[3, 0], [0]]


def test_an_unknown_token_that_tokenizers_does_not_name():
    """A Unigram model does not say which of its pieces is the unknown one, and it may have any name."""
    pieces = [("<UNKNOWN>", 0.0), ("</s>", 0.0), ("good", -1.0), ("<", -2.0), ("/", -2.0), ("s", -2.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.add_special_tokens([AddedToken("<UNKNOWN>"), AddedToken("</s>")])
    tokenizer.encode_special_tokens = True
    ids, offsets = tokenize(tokenizer, ["good", "good\u4e2d", "</s"], None)
    assert np.split(ids, offsets[1:-1])[1].tolist() == [2, 0]
    assert ids[offsets[2] :].tolist() == [3, 4, 5]


def test_merges_that_build_a_special_token():
    """Without the token in the vocabulary, they have nothing to build."""
    names = ["<", "/", "s", ">", "</", "s>", "</s>", "</s>s"]
    vocabulary = {name: number for number, name in enumerate(names)}
    merges = [("<", "/"), ("s", ">"), ("</", "s>"), ("</s>", "s")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.add_special_tokens([AddedToken("</s>")])
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode("</s>").tokens == ["</s>"]  # what is mended
    assert tokenize(tokenizer, ["</s>"], None)[0].tolist() == [4, 5]
