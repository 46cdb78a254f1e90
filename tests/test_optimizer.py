"""AdamW on masters against torch's own, and the schedule against transformers'."""

import pytest
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from skbert.runtime import Runtime
from skbert.training.optimizer import MasterAdamW, WeightState, linear_schedule, parameter_groups


class ToyEncoder(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 4), nn.LayerNorm(4))

    def get_input_embeddings(self):
        return self[0]


class Toy(nn.Module):
    """The two parts that `cast_encoder` looks for, and a head."""

    def __init__(self):
        super().__init__()
        self.encoder = ToyEncoder()
        self.pooler = None
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.encoder(x.to(self.encoder[0].weight.dtype)).to(self.head.weight.dtype))


def make_toy(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Toy()


def test_a_step_on_the_cpu_asks_nothing_of_a_gpu(monkeypatch):
    """CUDA would be started for it: not wanted, and an error in a forked process."""

    def start(*_):
        raise AssertionError("CUDA has been started")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_stream", start)
    toy = make_toy()
    optimizer = MasterAdamW(toy, Runtime(torch.device("cpu"), torch.float32), 0.0, 1.0, 1.0)
    before = toy.head.weight.detach().clone()
    optimizer.backward(toy(torch.ones(3, 4)).sum())
    optimizer.step(0.1)
    assert not torch.equal(toy.head.weight, before)


def groups_of(module, weight_decay):
    return parameter_groups([(p, 1.0) for p in module.parameters()], weight_decay)


def data():
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_float32_equals_torch(max_grad_norm):
    ours, reference = make_toy(), make_toy()
    mine = MasterAdamW(ours, Runtime(torch.device("cpu"), torch.float32), 0.1, 1.0, max_grad_norm)
    theirs = torch.optim.AdamW(groups_of(reference, 0.1), lr=0.0)
    for rate in (1e-2, 5e-3, 1e-3):
        ours(data()).square().sum().backward()
        mine.step(rate)
        reference(data()).square().sum().backward()
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(reference.parameters(), max_grad_norm)
        for group in theirs.param_groups:
            group["lr"] = rate
        theirs.step()
        theirs.zero_grad()
    for a, b in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert a.grad is None


def test_bfloat16_masters_collect_steps_too_small_for_bfloat16():
    toy = make_toy()
    start = toy.encoder[0].weight.detach().clone()
    optimizer = MasterAdamW(toy, Runtime(torch.device("cpu"), torch.bfloat16), 0.0, 1.0, None)
    assert toy.encoder[0].weight.dtype == torch.bfloat16
    assert toy.head.weight.dtype == torch.float32
    for _ in range(100):
        toy(data()).square().sum().backward()
        optimizer.step(1e-5)
    weight = optimizer.weights()["encoder.0.weight"]
    assert weight.dtype == torch.float32
    moved = (weight - start).abs()
    # A hundred steps of 1e-5, each far below bfloat16's resolution of these weights.
    assert moved.max().item() == pytest.approx(1e-3, rel=0.1)


def test_weights_without_gradient_are_left_alone():
    toy = make_toy()
    before = toy.head.weight.detach().clone()
    optimizer = MasterAdamW(toy, Runtime(torch.device("cpu"), torch.bfloat16), 0.5, 1.0, 1.0)
    toy.encoder(data().bfloat16()).sum().backward()
    optimizer.step(0.1)
    assert torch.equal(toy.head.weight, before)


def test_biases_and_norms_do_not_decay():
    toy = make_toy()
    decayed, free = groups_of(toy, 0.3)
    assert decayed["weight_decay"] == 0.3
    assert free["weight_decay"] == 0.0
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 4), (2, 4)]
    assert len(free["params"]) == 4


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.5, 1.0])
def test_schedule_is_transformers_one_step_ahead_in_warm_up(warmup_ratio):
    n_steps = 20
    warmup = int(n_steps * warmup_ratio)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = get_linear_schedule_with_warmup(optimizer, warmup, n_steps)
    for step in range(n_steps):
        factor = linear_schedule(step, n_steps, warmup_ratio)
        if step < warmup:  # transformers' first step has a rate of zero, and so moves nothing
            assert factor == pytest.approx((step + 1) / warmup)
        else:
            assert factor == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def test_schedule_of_one_step_moves():
    assert linear_schedule(0, 1, 0.1) == 1.0
    assert linear_schedule(0, 1, 0.0) == 1.0


def test_steps_of_warm_up_are_rounded_up():
    assert [linear_schedule(step, 15, 0.1) for step in (0, 1)] == [0.5, 1.0]


def make_half(max_grad_norm=None):
    toy = make_toy()
    return toy, MasterAdamW(toy, Runtime(torch.device("cpu"), torch.float16), 0.0, 1.0, max_grad_norm)


def test_float16_keeps_gradients_that_would_vanish():
    toy, optimizer = make_half()
    before = toy.encoder[0].weight.detach().clone()
    (toy(data()).square().sum() * 1e-9).backward()
    assert not toy.encoder[0].weight.grad.any()  # below the smallest number of float16
    toy.zero_grad()
    optimizer.backward(toy(data()).square().sum() * 1e-9)
    assert toy.encoder[0].weight.grad.any()
    optimizer.step(1e-2)
    assert not torch.equal(toy.encoder[0].weight, before)


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_scaled_steps_are_those_of_float32(max_grad_norm):
    """Gradients fall from step to step, so that one of them clipped too much would count for more."""
    toy, optimizer = make_half(max_grad_norm)
    reference = make_toy()
    plain = MasterAdamW(reference, Runtime(torch.device("cpu"), torch.float32), 0.0, 1.0, max_grad_norm)
    for step in range(20):
        factor = 0.7**step
        optimizer.backward(toy(data()).square().sum() * factor)
        optimizer.step(1e-2)
        plain.backward(reference(data()).square().sum() * factor)
        plain.step(1e-2)
    assert optimizer.steps_taken() == plain.steps_taken() == 20
    for name, weight in plain.weights().items():
        torch.testing.assert_close(optimizer.weights()[name], weight, atol=5e-3, rtol=0)


def test_a_step_that_overflows_in_float16_is_left_out():
    toy, optimizer = make_half()
    optimizer.backward(toy(data()).square().sum())
    optimizer.step(1e-2)
    before = {name: (kept.weight.clone(), kept.first.clone()) for name, kept in optimizer.state().items()}
    scale = optimizer.scaler.get_scale()
    optimizer.backward(toy(data()).square().sum() * 1e6)
    optimizer.step(1e-2)
    assert optimizer.scaler.get_scale() == scale / 2
    assert optimizer.steps_taken() == 1
    for name, kept in optimizer.state().items():
        assert torch.equal(kept.weight, before[name][0])
        assert torch.equal(kept.first, before[name][1])
        assert kept.steps == 1


def test_moments_of_float16_bring_their_scale():
    toy, optimizer = make_half()
    optimizer.backward(toy(data()).square().sum() * 1e6)
    optimizer.step(1e-2)
    optimizer.backward(toy(data()).square().sum())
    optimizer.step(1e-2)
    moments = optimizer.moments(torch.arange(1))
    again = make_half()[1]
    again.load_moments(moments)
    assert again.scaler.get_scale() == optimizer.scaler.get_scale() < make_half()[1].scaler.get_scale()
    wide = MasterAdamW(make_toy(), Runtime(torch.device("cpu"), torch.float32), 0.0, 1.0, None)
    wide.load_moments(moments)  # of a fit in another precision
    again.load_moments(wide.moments(torch.arange(1)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_steps_are_counted_whatever_torchs_default_dtype(dtype):
    """In bfloat16 there is no 257."""
    first, plain = make_toy(), make_toy()
    runtime = Runtime(torch.device("cpu"), torch.float32)
    optimizer, reference = (MasterAdamW(toy, runtime, 0.0, 1.0, None) for toy in (first, plain))
    state = {name: WeightState(w.weight, w.first, w.second, 257) for name, w in optimizer.state().items()}
    reference.load_state(state)
    torch.set_default_dtype(dtype)
    try:
        optimizer.load_state(state)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {weight.steps for weight in optimizer.state().values()} == {257}
    for toy, own in ((first, optimizer), (plain, reference)):
        toy(data()).square().sum().backward()
        own.step(1e-2)
    for a, b in zip(first.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_weight_that_was_frozen_in_earlier_calls_begins_with_its_first_step():
    """AdamW's own counts: one for all would make the first steps of such a weight several times too long."""
    toy, reference = make_toy(), make_toy()
    theirs = torch.optim.AdamW(reference.parameters(), lr=1e-2, weight_decay=0.0)
    moments = None
    for frozen, n_steps in ((True, 30), (False, 2), (False, 3)):
        toy.encoder.requires_grad_(not frozen)
        ours = MasterAdamW(toy, Runtime(torch.device("cpu"), torch.float32), 0.0, 1.0, None)
        if moments is not None:
            ours.load_moments(moments)
        for _ in range(n_steps):
            toy(data()).square().sum().backward()
            ours.step(1e-2)
            theirs.zero_grad()
            reference(data()).square().sum().backward()
            if frozen:
                for weight in reference.encoder.parameters():
                    weight.grad = None
            theirs.step()
        moments = ours.moments(torch.arange(4))
    assert moments.steps == 35
    assert set(moments.steps_of.values()) == {35, 5}
    for a, b in zip(toy.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_state_of_another_shape_is_refused():
    """Copied, it would be broadcast."""
    optimizer = MasterAdamW(make_toy(), Runtime(torch.device("cpu"), torch.float32), 0.0, 1.0, None)
    name, kept = next(iter(optimizer.state().items()))
    with pytest.raises(ValueError, match=rf"{name} has the shape \(1, 4\)"):
        optimizer.load_state({name: WeightState(kept.weight, kept.first[:1], kept.second, 1)})


def test_a_snapshot_brings_back_how_far_absent_rows_had_decayed():
    toy = make_toy()
    optimizer = MasterAdamW(toy, Runtime(torch.device("cpu"), torch.float32), 0.5, 1.0, None)
    decays, snapshots = [], []
    for _ in range(2):
        toy(data()).square().sum().backward()
        optimizer.step(0.1)
        decays.append(optimizer.embedding_decay)
        snapshots.append(optimizer.snapshot())
    assert decays == pytest.approx([0.95, 0.95**2])
    optimizer.load_snapshot(snapshots[0])
    assert optimizer.embedding_decay == decays[0]
