"""Groups of like length against attention on each text alone."""

import numpy as np
import pytest
import torch

from skbert.network import attention_layout
from skbert.network.attention_layout import make_layout
from skbert.network.grouped_attention import GroupedAttention

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
    monkeypatch.setattr(attention_layout, "_WASTE", request.param)
    return request.param


@pytest.fixture(params=[10**9, 100, 1])
def block(request, monkeypatch):
    """Scores of a block; groups of more are cut."""
    for name in ("_MOST_SCORES_ELSE", "_BLOCK", "_MOST_IN_ALL"):
        monkeypatch.setattr(attention_layout, name, request.param)
    return request.param


@pytest.mark.parametrize("window", [None, 1, 5, 30])
def test_groups_and_blocks_change_nothing(waste, block, window):
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


@pytest.mark.parametrize(("dropout", "window"), [(0.0, None), (0.3, None), (0.0, 5), (0.3, 5)])
def test_gradients(waste, block, dropout, window):
    layout = make_layout(LENGTHS, 2, torch.float64, window)
    assert torch.autograd.gradcheck(lambda *x: attend(x, layout, dropout), make_inputs(), fast_mode=True)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_weights_of_cut_groups_are_not_kept(block, dropout):
    layout = make_layout(LENGTHS, 2, torch.float64, None)
    out = attend(make_inputs(), layout, dropout)  # without it torch 2.10 frees what is saved
    made = out.grad_fn
    weights = [x for x in made.saved_tensors[3:] if x is not None]
    assert bool(weights) is (block == 10**9)  # blocks of 100 and of 1 are parts of each of these groups
    assert bool(made.states) is (block < 10**9 and dropout > 0)


def test_only_so_many_weights_are_kept_in_all(monkeypatch):
    monkeypatch.setattr(attention_layout, "_WASTE", 0)
    layout = make_layout(LENGTHS, 2, torch.float64, None)
    sizes = [group.n_scores for group in layout.groups]
    assert sizes == sorted(sizes, reverse=True)
    assert [group.is_whole for group in layout.groups] == [True] * 5
    monkeypatch.setattr(attention_layout, "_MOST_IN_ALL", sum(sizes[1:]))
    cut = make_layout(LENGTHS, 2, torch.float64, None)
    assert [group.is_whole for group in cut.groups] == [False] + [True] * 4
    out = attend(make_inputs(), cut)
    saved = out.grad_fn.saved_tensors[3:]
    assert sum(x.numel() for x in saved if x is not None) == sum(sizes[1:])


def test_a_second_derivative_is_refused():
    layout = make_layout(LENGTHS, 2, torch.float64, None)
    inputs = make_inputs()
    first = torch.autograd.grad(attend(inputs, layout).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first[0].sum().backward()


def test_dropout_without_a_generator_can_be_cut(monkeypatch):
    """Its masks cannot be drawn again, and are kept."""
    monkeypatch.setattr(attention_layout, "_MOST_SCORES_ELSE", 0)
    monkeypatch.setattr(attention_layout, "_BLOCK", 100)
    layout = make_layout(LENGTHS, 2, torch.float64, None)

    def drawn(*x):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return GroupedAttention.apply(*x, layout, 0.5, 0.3, None)

    assert torch.autograd.gradcheck(drawn, make_inputs(), fast_mode=True)


def test_what_many_blocks_add_up_in_bfloat16_is_as_near_as_one_sum(monkeypatch):
    """All queries look alike at every key, so that the gradient of each value is a sum over all of them."""
    n = 1024
    generator = torch.Generator().manual_seed(0)
    q, k, v, gradient = (torch.randn(n, 2, 8, generator=generator) for _ in range(4))
    q, gradient = q * 0.01, gradient + 1.0
    errors = []
    monkeypatch.setattr(attention_layout, "_BLOCK", 2 * n * 16)
    for most in (1 << 30, 0):
        monkeypatch.setitem(attention_layout._MOST_SCORES, torch.bfloat16, most)
        found = []
        for dtype in (torch.float64, torch.bfloat16):
            inputs = [x.bfloat16().to(dtype).requires_grad_() for x in (q, k, v)]
            layout = make_layout(np.array([n]), 2, dtype, None)
            attend(inputs, layout).backward(gradient.bfloat16().to(dtype))
            found.append(inputs[2].grad.double())
        errors.append(float((found[0] - found[1]).abs().max() / found[0].abs().max()))
    assert errors[1] < 1.5 * errors[0] + 1e-3
