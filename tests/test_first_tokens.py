"""The last layer for first tokens only. Its values and gradients: test_model.py, against transformers."""

import copy

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, build_model, load_tokenizer

from skbert.data.batching import collate
from skbert.data.encoding import encode
from skbert.data.inputs import Texts
from skbert.network.attention import first_token_attention
from skbert.network.attention_layout import make_layout
from skbert.network.dropout import set_dropout
from skbert.network.grouped_attention import GroupedAttention
from skbert.network.packing import Packing

TEXTS = Texts(["good film", "", "the cat and the dog walk to the sea", "bad", "x-9!"])
LENGTHS = np.array([9, 40, 3, 40, 17, 1])


def build(folder, pooling):
    encodings = encode(load_tokenizer(folder), TEXTS, 64)
    return build_model(folder, pooling, 3).eval(), collate(encodings, np.arange(len(TEXTS)))


def states_of(model, batch):
    packing = Packing(batch.lengths, batch.positions, batch.max_length)
    return model._encode_packed(batch, packing) if model.architecture.packed else None


@pytest.mark.parametrize("family", FAMILIES)
def test_which_families_give_first_tokens(family, tiny_checkpoints):
    model, batch = build(tiny_checkpoints(family, layers=2), "cls")
    assert model.gives_first_tokens is (family not in ("modernbert", "deberta-v2"))
    if model.gives_first_tokens:
        assert len(states_of(model, batch)) == len(TEXTS)
        assert torch.equal(copy.deepcopy(model)(batch), model(batch))
        restricted = model(batch)
        model.give_all_tokens()
        assert len(states_of(model, batch)) == len(batch.input_ids)
        torch.testing.assert_close(model(batch), restricted)


def test_other_poolings_read_every_token(tiny_bert):
    model, batch = build(tiny_bert, "mean")
    assert not model.gives_first_tokens
    assert len(states_of(model, batch)) == len(batch.input_ids)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_the_attention(dropout):
    layout = make_layout(LENGTHS, 2, torch.float64, None, first=True)
    draw = torch.Generator().manual_seed(0)
    n_tokens = int(LENGTHS.sum())
    inputs = [
        torch.randn(n, 2, 4, dtype=torch.float64, generator=draw, requires_grad=True)
        for n in (len(LENGTHS), n_tokens, n_tokens)
    ]

    def attend(*x):
        return GroupedAttention.apply(*x, layout, 0.5, dropout, torch.Generator().manual_seed(0))

    assert torch.autograd.gradcheck(attend, inputs, fast_mode=True)


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_the_attention_of_the_first_token(needs_gradient):
    lengths = torch.from_numpy(LENGTHS)
    packing = Packing(lengths, torch.cat([torch.arange(n) for n in LENGTHS]), int(LENGTHS.max()))
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, int(LENGTHS.sum()), 8, dtype=torch.float64, generator=draw) for _ in range(3))
    q.requires_grad_(needs_gradient)
    out = first_token_attention(q[:, packing.firsts], k, v, 2, packing, 0.0)
    for i, (start, n) in enumerate(zip(packing.firsts.tolist(), LENGTHS, strict=True)):
        one, keys, values = (x[0, start : start + n].view(-1, 2, 4).transpose(0, 1) for x in (q, k, v))
        scores = one[:, :1] @ keys.transpose(1, 2) / 2
        torch.testing.assert_close(out[0, i], (scores.softmax(-1) @ values).flatten())


def test_dropout_reaches_the_restricted_layer(tiny_bert):
    model, batch = build(tiny_bert, "cls")  # one layer: the restricted one
    set_dropout(model, 0.5, torch.Generator().manual_seed(0))
    layer = model.requires_grad_().train().encoder.encoder.layer[-1]
    for quiet in (layer.attention.output, layer.output, model.encoder.embeddings, model.dropout):
        quiet.eval()
    assert not torch.equal(model(batch), model(batch))  # only attention weights were dropped
