"""The special tokens around texts, against what tokenizers make of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from checkpoints import FAMILIES, build_tokenizer
from tokenizers import Regex, normalizers, processors

from skbert import CheckpointError
from skbert.data.encoding import encode
from skbert.data.inputs import Texts
from skbert.data.template import Template
from skbert.pretrained import checkpoints

FIRST, SECOND = ["good film", "", "the cat"], ["a bad story", "the sea and the dog", ""]
ODD = {  # templates of single texts and of pairs
    "several segments in a group": ("[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 [SEP]:1 $B:1 [SEP]:1"),
    "as XLNet": ("$A:0 [SEP]:0 [CLS]:2", "$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2"),
    "nothing around": ("$A:0", "$A:0 $B:1"),
}


def with_template(single, pair, family="bert"):
    tokenizer = build_tokenizer(family)
    special = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    return tokenizer


def assert_framed(tokenizer, columns):
    encodings = encode(tokenizer, Texts(*columns), 64)
    for row, texts in enumerate(zip(*columns, strict=True)):
        expected = tokenizer.encode(*texts)
        own = slice(encodings.offsets[row], encodings.offsets[row + 1])
        assert encodings.ids[own].tolist() == expected.ids
        assert encodings.segments[own].tolist() == expected.type_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_framed_as_the_tokenizer_does_it(family):
    assert_framed(build_tokenizer(family), [FIRST])
    assert_framed(build_tokenizer(family), [FIRST, SECOND])


@pytest.mark.parametrize("kind", ODD)
def test_odd_templates(kind):
    tokenizer = with_template(*ODD[kind])
    assert_framed(tokenizer, [FIRST[:1]])
    assert_framed(tokenizer, [FIRST, SECOND])


def test_template_of_bert_pairs():
    template = Template.read(build_tokenizer("bert"), 2)
    assert [len(group) for group in template.specials] == [1, 1, 1]
    assert [segments.tolist() for segments in template.special_segments] == [[0], [0], [1]]
    assert template.text_segments == (0, 1)


@pytest.mark.parametrize(
    ("single", "pair", "n_texts"),
    [
        ("[CLS]:0 $A:0", "[CLS]:0 $B:0 [SEP]:0 $A:1", 2),
        ("[CLS]:0 $A:0 [SEP]:0 $A:1", "$A:0 $B:1", 1),
        ("$A:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 $A:0", 2),
    ],
)
def test_other_orders_are_refused(single, pair, n_texts):
    with pytest.raises(CheckpointError, match="Expected each text once, in order"):
        Template.read(with_template(single, pair), n_texts)


def test_letters_need_not_have_tokens():
    tokenizer = build_tokenizer("bert")
    tokenizer.normalizer = normalizers.Replace(Regex("[a-z]"), "")
    assert_framed(tokenizer, [["123 !", "?"]])
    state = json.loads(tokenizer.to_str())
    state["normalizer"] = {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}
    deaf = checkpoints.new_tokenizer(json.dumps(state))
    with pytest.raises(CheckpointError, match="gives no token for any text"):
        Template.read(deaf, 1)


def test_special_tokens_in_a_text_stay_text():
    tokenizer = build_tokenizer("bert")
    tokenizer.encode_special_tokens = True
    encodings = encode(tokenizer, Texts(["good [SEP] bad", "[CLS] [MASK] [PAD]"]), 64)
    ends = encodings.ids == tokenizer.token_to_id("[SEP]")
    assert np.flatnonzero(ends).tolist() == (encodings.offsets[1:] - 1).tolist()
    assert tokenizer.token_to_id("[MASK]") not in encodings.ids
