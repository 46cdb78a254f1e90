"""Filler: sizes that recur, and results that do not change."""

import numpy as np
import pytest
import torch
from checkpoints import PACKED
from test_model import PAIRS, SINGLE, build

from skbert.data.batching import collate
from skbert.data.encoding import encode
from skbert.network import filler
from skbert.network.dropout import set_dropout
from skbert.network.filler import apply, fill, filler_size
from skbert.network.model import cast_encoder

CPU = torch.device("cpu")


def test_few_sizes_and_little_filler():
    numbers = range(256, 4096)
    filler = [filler_size(n, CPU, torch.bfloat16) for n in numbers]
    sizes = {n + more for n, more in zip(numbers, filler, strict=True)}
    assert len(sizes) == 4 * 16 + 1
    assert all(size % 16 == 0 for size in sizes)
    assert all(0 <= more < n / 16 for n, more in zip(numbers, filler, strict=True))
    assert np.mean(np.divide(filler, numbers)) < 0.035


def test_few_tokens_fill_a_tile():
    assert [n + filler_size(n, CPU, torch.bfloat16) for n in (1, 16, 17, 250)] == [16, 16, 32, 256]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fours_where_nothing_needs_a_gradient(dtype):
    assert filler_size(1001, CPU, dtype) == 0
    with torch.inference_mode():
        assert [filler_size(n, CPU, dtype) for n in (1, 4, 1001, 1002)] == [3, 0, 3, 2]


def test_not_on_other_devices():
    assert filler_size(1001, torch.device("cuda"), torch.bfloat16) == 0
    with torch.no_grad():
        assert filler_size(1001, torch.device("cuda"), torch.float32) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_texts(dtype):
    rows = torch.arange(6, dtype=dtype).view(3, 2)
    seen = []
    with torch.inference_mode():
        doubled = apply(lambda x: seen.append(x) or 2 * x, rows)
    assert torch.equal(doubled, 2 * rows)
    assert len(seen[0]) == (4 if dtype == torch.float32 else 3)


def test_fill():
    assert fill(torch.tensor([[1, 2]]), 2).tolist() == [[1, 2], [0, 0], [0, 0]]
    values = torch.ones(3)
    assert fill(values, 0) is values


def run(folder, pooling, n_filler, monkeypatch, texts):
    """Logits and gradients of a batch with so much filler."""
    monkeypatch.setattr(filler, "filler_size", lambda *_: n_filler)
    model, tokenizer = build(folder, pooling)
    model.to(torch.float64)
    encodings = encode(tokenizer, texts, 64)
    batch = collate(encodings, np.arange(len(encodings)))
    logits = model(batch)
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("family", PACKED)
def test_values_and_gradients_do_not_change(family, pooling, tiny_checkpoints, monkeypatch):
    folder = tiny_checkpoints(family, layers=2)
    texts = PAIRS if pooling == "cls" else SINGLE
    expected, expected_gradients = run(folder, pooling, 0, monkeypatch, texts)
    for n_filler in (1, 37):
        logits, gradients = run(folder, pooling, n_filler, monkeypatch, texts)
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(gradients, expected_gradients)


def test_it_is_used_in_bfloat16(tiny_bert):
    sizes = []
    model, tokenizer = build(tiny_bert, "mean")
    set_dropout(model, 0.1, torch.Generator().manual_seed(0))
    cast_encoder(model, torch.bfloat16)
    model.encoder.embeddings.register_forward_hook(lambda *call: sizes.append(call[-1].shape[1]))
    encodings = encode(tokenizer, SINGLE, 64)
    for rows in (np.arange(6), np.arange(3)):
        batch = collate(encodings, rows)
        logits = model.train()(batch)
        assert sizes[-1] > len(batch.input_ids)
        assert sizes[-1] % 16 == 0
        logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
