"""Dropout masks: their rate, their scale, their source."""

import pytest
import torch

from skbert.network import dropout as dropout_module
from skbert.network.dropout import Dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_scale(p, dtype):
    x = torch.ones(401, 503, dtype=dtype)
    y = dropout(x, p, torch.Generator().manual_seed(0))
    assert y.dtype == dtype
    assert (y == 0).double().mean().item() == pytest.approx(p, abs=0.005)
    assert y[y != 0].unique().numel() == 1
    assert y.double().mean().item() == pytest.approx(1, abs=0.02)


def test_neighbours_are_independent():
    """Four mask elements come from one draw: their correlation must vanish at every lag."""
    kept = (dropout(torch.ones(400_000), 0.5, torch.Generator().manual_seed(1)) > 0).double() - 0.5
    for lag in range(1, 9):
        assert abs((kept[lag:] * kept[:-lag]).mean().item()) < 0.0025


def test_masks_are_independent_of_each_other():
    generator = torch.Generator().manual_seed(2)
    kept = [(dropout(torch.ones(100_000), 0.5, generator) > 0).double() - 0.5 for _ in range(8)]
    products = torch.stack(kept) @ torch.stack(kept).T / 100_000
    torch.testing.assert_close(products, torch.eye(8).double() / 4, atol=0.004, rtol=0)


def test_every_element_has_the_rate():
    generator = torch.Generator().manual_seed(3)
    kept = sum((dropout(torch.ones(64), 0.1, generator) > 0).double() for _ in range(20_000)) / 20_000
    assert (kept - 0.9).abs().max().item() < 4.5 * (0.9 * 0.1 / 20_000) ** 0.5


def test_masks_longer_than_a_stretch_of_the_pool(monkeypatch):
    monkeypatch.setattr(dropout_module, "_STRETCH", 1000)
    kept = (dropout(torch.ones(400_000), 0.5, torch.Generator().manual_seed(4)) > 0).double() - 0.5
    assert abs(kept.mean().item()) < 0.004
    for lag in (1, 4000):
        assert abs((kept[lag:] * kept[:-lag]).mean().item()) < 0.002


def test_same_generator_same_mask_and_the_global_one_untouched():
    before = torch.get_rng_state()
    masks = [dropout(torch.ones(50), 0.5, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*masks)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradient_is_the_mask():
    x = torch.ones(100, requires_grad=True)
    y = dropout(x, 0.5, torch.Generator().manual_seed(0))
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_zero_probability_and_eval_mode_pass_through():
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))
    assert dropout(x, 0.0, None) is x
    assert Dropout(0.5).eval()(x) is x


@pytest.mark.parametrize("size", [0, 1, 3, 5])
def test_any_number_of_elements(size):
    assert dropout(torch.ones(size), 0.5, torch.Generator().manual_seed(0)).shape == (size,)


def test_probability_next_to_one():
    y = dropout(torch.ones(1000), 0.999999, torch.Generator().manual_seed(0))
    assert torch.isfinite(y).all()
