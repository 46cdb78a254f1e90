"""Attention over packed texts on a CUDA GPU: one kernel, which reads them in the packed layout.

torch has FlashAttention-2 (Dao, 2023, arXiv:2307.08691) for texts of different lengths end to end; torch's
nested tensors call it as this module does. Its public form, `torch.nn.attention.varlen`, has no dropout.

1. `has_kernel` tells whether the kernel can take a batch. For each new device, dtype and head size, it
   first runs the kernel on a few short texts: the kernel is used only where values and gradients are right.
2. `flash_attention` calls the kernel. Dropout draws from the device's own generator, which a fit has to
   itself (`randomness.isolated_cuda`).

Elsewhere (float32, older GPUs, devices of other kinds) texts are laid out side by side (`attention.py`).
"""

from __future__ import annotations

from functools import cache

import torch
from torch.autograd.graph import saved_tensors_hooks

from skbert.network.memory_errors import is_out_of_memory
from skbert.process.scopes import own_settings

_DTYPES = (torch.bfloat16, torch.float16)
_MOST_TEXTS = 65_535  # one dimension of the kernel's grid
_WIDEST_HEAD = 128  # wider heads need more shared memory in the backward pass than some GPUs have


def has_kernel(q: torch.Tensor, n_texts: int) -> bool:
    """Whether the kernel takes queries such as `q`, (n_queries, n_heads, head_size), of `n_texts` texts."""
    if q.device.type != "cuda" or q.dtype not in _DTYPES or n_texts > _MOST_TEXTS:
        return False
    head_size = q.shape[-1]
    fits = head_size % 8 == 0 and head_size <= _WIDEST_HEAD
    return fits and _is_wanted() and _is_right(q.device, q.dtype, head_size)


def _is_wanted() -> bool:
    """Whether the process allows torch's fused attention, and has put no other implementation in its place.

    Those that `activate_flash_attention_impl` puts there take no dropout.
    """
    other = torch.nn.attention.current_flash_attention_impl()
    return torch.backends.cuda.flash_sdp_enabled() and other is None


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bounds: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    scale: float,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    """Attend, each text to itself.

    Parameters
    ----------
    q : Tensor of shape (n_queries, n_heads, head_size)
    k, v : Tensor of shape (n_tokens, n_heads, head_size)
    bounds : tuple of two Tensor of shape (n_texts + 1,), int32
        Where the queries of each text begin, and where its keys begin; the last entry is their number.
    longest : tuple of two int
        Largest number of queries, and of keys, of a text.
    scale : float
    dropout : float
        Probability that a weight is dropped.
    window : int or None
        Tokens at this distance or further are not attended to.

    Returns
    -------
    Tensor of shape (n_queries, n_heads, head_size)
    """
    reach = -1 if window is None else max(1, window) - 1  # a token always sees itself
    out, *_ = torch.ops.aten._flash_attention_forward.default(
        q,
        k,
        v,
        *bounds,
        *longest,
        dropout,
        False,  # not causal
        False,  # no mask to debug with
        scale=scale,
        window_size_left=reach,
        window_size_right=reach,
    )
    return out


@cache
def _is_right(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether the kernel's values and gradients agree with the definition of attention."""
    draw = torch.Generator().manual_seed(0)
    lengths, scale = [5, 1, 3], head_size**-0.5
    # This may run in a prediction, whose tensors allow no gradient, and in a layer whose inner results are
    # not kept but recomputed.
    as_they_are = saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    with own_settings(), as_they_are:
        bounds = torch.tensor([0, 5, 6, 9], dtype=torch.int32).to(device)
        drawn = (torch.randn(9, 2, head_size, generator=draw, dtype=torch.float32) for _ in range(4))
        q, k, v, weights = (x.to(device, dtype).requires_grad_() for x in drawn)
        for window in (None, 2):
            expected = _by_definition(q, k, v, lengths, scale, window)
            # The gradient begins with an element-wise product: cuBLAS warns where it comes first in a thread.
            wanted = (expected, *torch.autograd.grad((expected * weights.float()).sum(), (q, k, v)))
            try:
                out = flash_attention(q, k, v, (bounds, bounds), (5, 5), scale, 0.0, window)
                found = (out, *torch.autograd.grad((out * weights).sum(), (q, k, v)))
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                return False  # not for this GPU, or not in this build of torch
            pairs = zip(found, wanted, strict=True)
            if not all(torch.allclose(a.float(), b.float(), atol=5e-2, rtol=5e-2) for a, b in pairs):
                return False
    return True


def _by_definition(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: list[int],
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Attention text by text, in float32."""
    results = []
    for texts in zip(*(x.float().transpose(0, 1).split(lengths, dim=1) for x in (q, k, v)), strict=True):
        scores = texts[0] @ texts[1].transpose(1, 2) * scale  # (n_heads, n_tokens, n_tokens)
        places = torch.arange(scores.shape[-1], device=q.device)
        if window is not None:
            far = (places[:, None] - places).abs() >= window
            scores = scores.masked_fill(far, float("-inf"))
        results.append(scores.softmax(dim=-1) @ texts[2])
    return torch.cat(results, dim=1).transpose(0, 1)
