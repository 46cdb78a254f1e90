"""The kernel of CUDA: on a GPU it is held against attention's definition, elsewhere its calls are."""

import subprocess
import sys
from pathlib import Path

import other_device
import pytest
import torch
from other_device import NAME, OtherDevice

from skbert.network import attention, flash_attention
from skbert.network.attention import first_token_attention, packed_attention
from skbert.network.packing import Packing

LENGTHS = [3, 1, 7, 4]
HEAD_SIZE = 8


def make_packing(device):
    lengths = torch.tensor(LENGTHS)
    positions = torch.cat([torch.arange(n) for n in LENGTHS])
    return Packing(lengths.to(device), positions.to(device), max(LENGTHS))


def draw(device, dtype):
    """Queries, keys, values and what their outputs weigh, (1, n_heads, n_tokens, head_size)."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(4, 1, 2, sum(LENGTHS), HEAD_SIZE, generator=generator, dtype=torch.float64)
    return [x.to(device, dtype).requires_grad_() for x in drawn]


@pytest.fixture
def kernel(monkeypatch):
    """A device whose kernel is its definition, in any dtype."""
    monkeypatch.setattr(attention, "has_kernel", lambda q, n_texts: q.device.type == NAME)
    with torch.random.fork_rng(), OtherDevice() as device:
        yield device


def test_a_cpu_has_no_kernel():
    assert not flash_attention.has_kernel(torch.zeros(3, 2, HEAD_SIZE, dtype=torch.bfloat16), 1)


@pytest.mark.parametrize("window", [None, 1, 2, 3, 50])
def test_values_and_gradients_are_those_of_the_cpu(kernel, window):
    results = []
    for device in ("cpu", NAME):
        q, k, v, weights = draw(device, torch.float64)
        out, _ = packed_attention(
            None, q, k, v, None, packing=make_packing(device), scaling=0.3, sliding_window=window
        )
        gradients = torch.autograd.grad(out, (q, k, v), weights.transpose(1, 2))
        results.append([x.detach().cpu() for x in (out, *gradients)])
    for on_cpu, there in zip(*results, strict=True):
        torch.testing.assert_close(there, on_cpu)


def test_first_tokens_are_those_of_the_cpu(kernel):
    results = []
    for device in ("cpu", NAME):
        packing = make_packing(device)
        q, k, v, weights = (x.transpose(1, 2).flatten(2) for x in draw(device, torch.float64))
        inputs = q[:, packing.firsts].detach().requires_grad_(), k, v
        out = first_token_attention(*inputs, 2, packing, 0.0)
        gradients = torch.autograd.grad(out, inputs, weights[:, : len(LENGTHS)])
        results.append([x.detach().cpu() for x in (out, *gradients)])
    for on_cpu, there in zip(*results, strict=True):
        torch.testing.assert_close(there, on_cpu)


def test_the_gaps_are_never_laid_out(kernel, monkeypatch):
    monkeypatch.setattr(Packing, "pad", None)
    packed_attention(None, *draw(NAME, torch.float64)[:3], None, packing=make_packing(NAME))


def test_dropout_reaches_the_kernel(kernel):
    q, k, v, _ = draw(NAME, torch.float64)
    flat = [x.transpose(1, 2).flatten(2) for x in (q, k, v)]
    packing = make_packing(NAME)
    for attend in (
        lambda dropout: packed_attention(None, q, k, v, None, packing=packing, dropout=dropout)[0],
        lambda dropout: first_token_attention(flat[0][:, packing.firsts], *flat[1:], 2, packing, dropout),
    ):
        torch.testing.assert_close(attend(0.0).cpu(), attend(0.0).cpu(), atol=0, rtol=0)
        assert not torch.equal(attend(0.0).cpu(), attend(0.5).cpu())


def off_by_one(q, k, v, *others, **options):
    """A kernel whose window is too wide."""
    options = {name: value + (value > 0) for name, value in options.items()}
    return other_device._flash_attention(q, k, v, *others, **options)


def not_built(*args, **options):
    raise RuntimeError("USE_FLASH_ATTENTION was not enabled for build.")


def no_gradient(gradient, q, k, v, *others, **options):
    return tuple(torch.zeros_like(x) for x in (q, k, v))


@pytest.mark.parametrize(
    ("name", "function", "is_right"),
    [
        ("_flash_attention_forward", None, True),
        ("_flash_attention_forward", off_by_one, False),
        ("_flash_attention_forward", not_built, False),
        ("_flash_attention_backward", no_gradient, False),
    ],
)
def test_a_kernel_is_tried_before_it_is_used(kernel, monkeypatch, name, function, is_right):
    if function is not None:
        monkeypatch.setitem(other_device._KERNELS, getattr(torch.ops.aten, name).default, function)
    flash_attention._is_right.cache_clear()
    with torch.inference_mode():  # as in a prediction
        for dtype in (torch.bfloat16, torch.float16):
            assert flash_attention._is_right(torch.device(NAME), dtype, HEAD_SIZE) is is_right
    flash_attention._is_right.cache_clear()


def no_memory(*args, **options):
    raise RuntimeError("CUDA error: out of memory")


def test_a_kernel_that_memory_was_too_short_to_try_is_tried_again(kernel, monkeypatch):
    flash_attention._is_right.cache_clear()
    tried = torch.device(NAME), torch.bfloat16, HEAD_SIZE
    with monkeypatch.context() as patch:
        patch.setitem(other_device._KERNELS, torch.ops.aten._flash_attention_forward.default, no_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            flash_attention._is_right(*tried)
    assert flash_attention._is_right(*tried)
    flash_attention._is_right.cache_clear()


def test_a_kernel_is_tried_with_tensors_that_gradients_can_be_taken_of(kernel, monkeypatch):
    """Torch's own kernel saves its bounds for the gradient, which a tensor of a prediction cannot be."""
    seen = []

    def spy(q, k, v, bounds, *others, real=flash_attention.flash_attention):
        seen.extend((q, k, v, *bounds))
        return real(q, k, v, bounds, *others)

    monkeypatch.setattr(flash_attention, "flash_attention", spy)
    with torch.inference_mode():
        flash_attention._is_right.__wrapped__(torch.device(NAME), torch.bfloat16, HEAD_SIZE)
    assert len(seen) == 10
    # The device makes no such tensors, so the values that they were made of are looked at.
    assert not any(x.numbers.is_inference() for x in seen)


def test_no_kernel_that_somebody_put_in_the_place_of_torchs(monkeypatch):
    assert flash_attention._is_wanted() is torch.backends.cuda.flash_sdp_enabled()
    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: "FA4")
    assert not flash_attention._is_wanted()


# On a GPU


@pytest.mark.gpu
def test_a_default_fit_on_a_gpu_takes_the_kernel():
    """In a process of its own: the first that meets it is a prediction of frozen embeddings."""
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("older than Ampere")
    script = """
import sys, tempfile, torch
sys.path.insert(0, sys.argv[1])
from checkpoints import build_checkpoint
from skbert import BertClassifier
from skbert.network import flash_attention
folder = build_checkpoint("bert", tempfile.mkdtemp())
for settings in ({}, {"gradient_checkpointing": True, "head_init": "random"}):
    flash_attention._is_right.cache_clear()
    BertClassifier(folder, device="cuda", precision="bfloat16", max_length=32, **settings).fit(
        ["good film", "bad film"] * 20, [0, 1] * 20
    )
    info = flash_attention._is_right.cache_info()
    assert info.misses == 1 and info.hits > 5, info
    assert flash_attention._is_right(torch.device("cuda", 0), torch.bfloat16, 16)
"""
    # The second fit has learned nothing.
    warnings = ["-W", "error::UserWarning", "-W", "ignore:The model predicts:UserWarning"]
    command = [sys.executable, *warnings, "-c", script, str(Path(__file__).parent)]
    subprocess.run(command, check=True, timeout=300)


@pytest.mark.gpu
@pytest.mark.parametrize("head_size", [8, 32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gpu_that_is_fast_in_bfloat16_has_the_kernel(head_size, dtype):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("older than Ampere")
    q = torch.zeros(3, 2, head_size, dtype=dtype, device="cuda")
    assert flash_attention.has_kernel(q, 1)
    assert not flash_attention.has_kernel(q.float(), 1)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert not flash_attention.has_kernel(q, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 1, 3, 200, "first"])
def test_the_kernel_agrees_with_texts_side_by_side(window, monkeypatch):
    lengths = torch.tensor([130, 1, 7, 64, 512, 2])
    positions = torch.cat([torch.arange(n) for n in lengths.tolist()])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(4, 1, 4, int(lengths.sum()), 64, generator=generator)
    results = []
    for is_there in (True, False):
        if not is_there:
            monkeypatch.setattr(attention, "has_kernel", lambda q, n_texts: False)
        packing = Packing(lengths.cuda(), positions.cuda(), 512)
        q, k, v, weights = (x.cuda().bfloat16().requires_grad_() for x in drawn)
        if window == "first":
            flat = [x.transpose(1, 2).flatten(2) for x in (q, k, v)]
            out = first_token_attention(flat[0][:, packing.firsts], *flat[1:], 4, packing, 0.0)
            weights = weights.transpose(1, 2).flatten(2)[:, : len(lengths)]
        else:
            out, _ = packed_attention(None, q, k, v, None, packing=packing, sliding_window=window)
            weights = weights.transpose(1, 2)
        results.append((out, *torch.autograd.grad(out, (q, k, v), weights)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=3e-2, rtol=3e-2)


@pytest.mark.gpu
def test_dropout_of_the_kernel_is_the_same_in_both_directions():
    q, k, v, weights = draw("cuda", torch.bfloat16)
    out, _ = packed_attention(None, q, k, torch.ones_like(v), None, packing=make_packing("cuda"), dropout=0.3)
    assert 0.05 < out.float().std() < 1.0
    # Outputs are linear in the values: weights that are dropped alike give the same sum in either direction.
    out, _ = packed_attention(None, q, k, v, None, packing=make_packing("cuda"), dropout=0.3)
    (gradient,) = torch.autograd.grad(out, v, weights.transpose(1, 2))
    forward = (out.double() * weights.transpose(1, 2).double()).sum()
    torch.testing.assert_close(forward, (v.double() * gradient.double()).sum(), atol=0.3, rtol=0.02)
