"""Packed attention against attention on each text alone."""

import pytest
import torch
import torch.nn.functional as F

from skbert.network.attention import packed_attention
from skbert.network.packing import Packing

LENGTHS = [3, 1, 7, 4]


def make_packing(generator=None):
    lengths = torch.tensor(LENGTHS)
    positions = torch.cat([torch.arange(n) for n in LENGTHS])
    return Packing(lengths, positions, max(LENGTHS), generator)


def make_qkv(dtype=torch.float64, requires_grad=False):
    torch.manual_seed(0)
    shape = (1, 2, sum(LENGTHS), 5)
    return [torch.randn(shape, dtype=dtype, requires_grad=requires_grad) for _ in range(3)]


@pytest.fixture(autouse=True)
def _isolated():
    with torch.random.fork_rng():
        yield


def alone(q, k, v, window=None):
    parts, start = [], 0
    for n in LENGTHS:
        q1, k1, v1 = (x[:, :, start : start + n] for x in (q, k, v))
        scores = q1 @ k1.transpose(-1, -2) * q.shape[-1] ** -0.5
        if window is not None:
            index = torch.arange(n)
            scores = scores.masked_fill((index[:, None] - index).abs() >= window, float("-inf"))
        parts.append(scores.softmax(-1) @ v1)
        start += n
    return torch.cat(parts, dim=2).transpose(1, 2)


@pytest.mark.parametrize("window", [None, 1, 2, 3, 50])
def test_each_text_attends_to_itself_only(window):
    q, k, v = make_qkv()
    out, weights = packed_attention(None, q, k, v, None, packing=make_packing(), sliding_window=window)
    assert weights is None
    torch.testing.assert_close(out, alone(q, k, v, window))


def test_gradients_are_those_of_each_text_alone():
    ours, reference = make_qkv(requires_grad=True), make_qkv(requires_grad=True)
    packed_attention(None, *ours, None, packing=make_packing())[0].square().sum().backward()
    alone(*reference).square().sum().backward()
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_pad_and_unpad_are_inverse_and_differentiable():
    packing = make_packing()
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.float64, requires_grad=True)
    padded = packing.pad(x)
    assert padded.shape == (4, 7, 3)
    assert not padded[~packing.mask].any()
    assert torch.equal(packing.unpad(padded), x)
    assert torch.autograd.gradcheck(lambda t: packing.unpad(packing.pad(t) * 2), x)


def test_bfloat16_path_without_the_fused_kernel_agrees():
    q, k, v = make_qkv(torch.float32)
    exact, _ = packed_attention(None, q, k, v, None, packing=make_packing())
    rough, _ = packed_attention(None, *(x.bfloat16() for x in (q, k, v)), None, packing=make_packing())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=3e-2, rtol=3e-2)


def test_dropout_zeroes_weights_and_keeps_the_mean():
    q, k, _ = make_qkv(torch.float32)
    v = torch.ones_like(q)
    packing = make_packing(torch.Generator().manual_seed(0))
    outputs = [packed_attention(None, q, k, v, None, packing=packing, dropout=0.3)[0] for _ in range(300)]
    assert outputs[0].std() > 0.05
    assert torch.stack(outputs).mean().item() == pytest.approx(1.0, abs=0.02)


def test_scaling_is_taken():
    q, k, v = make_qkv()
    given = packed_attention(None, q, k, v, None, packing=make_packing(), scaling=0.0)[0]
    start = 0
    for n in LENGTHS:  # scores of zero weigh all tokens of a text alike
        mean = v[0, :, start : start + n].mean(dim=1)
        torch.testing.assert_close(given[0, start], mean)
        start += n


def test_matches_sdpa_on_equal_lengths():
    q, k, v = (torch.randn(2, 2, 6, 4, dtype=torch.float64) for _ in range(3))
    packed = [x.transpose(1, 2).reshape(1, 12, 2, 4).transpose(1, 2) for x in (q, k, v)]
    positions = torch.arange(6).repeat(2)
    out, _ = packed_attention(None, *packed, None, packing=Packing(torch.tensor([6, 6]), positions, 6))
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 12, 2, 4)
    torch.testing.assert_close(out, expected)
