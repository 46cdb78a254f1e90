"""Groups of like length against attention on each text alone."""

import numpy as np
import pytest
import torch

from skbert.network import grouped_attention
from skbert.network.grouped_attention import GroupedAttention, make_layout

LENGTHS = np.array([9, 40, 3, 40, 17, 1])


def attend(x, layout, dropout=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return GroupedAttention.apply(*x, layout, 0.5, dropout, generator)


def make_inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    shape = (int(LENGTHS.sum()), 2, 4)
    return [torch.randn(shape, dtype=dtype, generator=generator, requires_grad=True) for _ in range(3)]


@pytest.fixture(params=[0, 200, 10**9])
def waste(request, monkeypatch):
    monkeypatch.setattr(grouped_attention, "_WASTE", request.param)
    return request.param


@pytest.mark.parametrize("window", [None, 5])
def test_groups_change_nothing(waste, window):
    layout = make_layout(LENGTHS, 2, torch.float64, window)
    assert len(layout.groups) == {0: 5, 200: 4, 10**9: 1}[waste]  # two texts have the same length
    inputs = make_inputs()
    out = attend(inputs, layout)
    for start, n in zip(np.cumsum(LENGTHS) - LENGTHS, LENGTHS, strict=True):
        q, k, v = (x[start : start + n].transpose(0, 1) for x in inputs)
        scores = 0.5 * q @ k.transpose(1, 2)
        if window is not None:
            index = torch.arange(n)
            scores = scores.masked_fill((index[:, None] - index).abs() >= window, float("-inf"))
        expected = (scores.softmax(-1) @ v).transpose(0, 1)
        torch.testing.assert_close(out[start : start + n], expected)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients(waste, dropout):
    layout = make_layout(LENGTHS, 2, torch.float64, None)
    assert torch.autograd.gradcheck(lambda *x: attend(x, layout, dropout), make_inputs(), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_keys_are_whole_vectors(dtype):
    layout = make_layout(LENGTHS, 2, dtype, None)
    assert all(group.n_keys * dtype.itemsize % 64 == 0 for group in layout.groups)
    assert all(0 <= group.n_keys - group.n_queries < 64 // dtype.itemsize for group in layout.groups)
