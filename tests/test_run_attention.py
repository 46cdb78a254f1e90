"""Runs of equal length against attention on each text alone."""

import numpy as np
import pytest
import torch

from skbert.network import attention, run_attention
from skbert.network.attention import packed_attention
from skbert.network.packing import Packing

LENGTHS = np.array([100, 100, 7, 3, 3, 3, 7])


def make_inputs():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(int(LENGTHS.sum()), 2, 8, dtype=torch.float64, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("window", [None, 0, 1, 5, 100])
@pytest.mark.parametrize("block", [1, 32, 1000])  # all fused, as they are, none fused
def test_each_text_attends_to_itself(block, window, monkeypatch):
    monkeypatch.setattr(run_attention, "_BLOCK", block)
    inputs = make_inputs()
    out = run_attention.run_attention(*inputs, LENGTHS, 0.5, window)
    for start, n in zip(np.cumsum(LENGTHS) - LENGTHS, LENGTHS, strict=True):
        q, k, v = (x[start : start + n].transpose(0, 1) for x in inputs)
        scores = 0.5 * q @ k.transpose(1, 2)
        if window is not None:
            places = torch.arange(int(n))
            distance = (places[:, None] - places).abs()
            scores[:, (distance > 0) & (distance >= window)] = -torch.inf
        torch.testing.assert_close(out[start : start + n], (scores.softmax(-1) @ v).transpose(0, 1))


def test_filler_gives_zeros():
    filled = [torch.cat([x, torch.ones(3, 2, 8, dtype=x.dtype)]) for x in make_inputs()]
    out = run_attention.run_attention(*filled, LENGTHS, 0.5)
    assert torch.equal(out[:-3], run_attention.run_attention(*make_inputs(), LENGTHS, 0.5))
    assert torch.equal(out[-3:], torch.zeros(3, 2, 8, dtype=torch.float64))


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_only_what_needs_no_gradient_takes_it(needs_gradient, monkeypatch):
    calls = []
    monkeypatch.setattr(
        attention, "run_attention", lambda *x: calls.append(x) or run_attention.run_attention(*x)
    )
    lengths = torch.from_numpy(LENGTHS)
    packing = Packing(lengths, torch.cat([torch.arange(n) for n in LENGTHS]), int(LENGTHS.max()))
    q, k, v = (x.transpose(0, 1)[None].requires_grad_(needs_gradient) for x in make_inputs())
    packed_attention(None, q, k, v, None, packing=packing)
    assert bool(calls) is not needs_gradient
