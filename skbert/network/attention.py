"""Attention over texts that are packed end to end, each text seeing only itself.

The linear layers of an encoder process Σ lengths tokens. On a CUDA GPU one kernel attends to them in this
packed layout (`flash_attention.py`). Elsewhere texts are laid out side by side, but only here, around the
product of queries and keys: on a CPU in groups of similar length (`grouped_attention.py`), on other devices
all together:

1. `Packing.pad`: (n_tokens, ...) → (n_texts, max_length, ...), zeros in the gaps.
2. Softmax attention with a mask over the gaps (and, in ModernBERT's local layers, over far tokens).
3. `Packing.unpad`: back to (n_tokens, ...).

Only this product, a small part of the work at the lengths of most texts, therefore sees gaps. The result
equals transformers' own padded run (tests/test_model.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from skbert.network.dropout import dropout as dropout_of
from skbert.network.filler import fill
from skbert.network.flash_attention import flash_attention, has_kernel
from skbert.network.grouped_attention import GroupedAttention
from skbert.network.packing import Packing
from skbert.network.run_attention import run_attention


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in the signature of transformers' `AttentionInterface`.

    Parameters
    ----------
    query, key, value : Tensor of shape (1, n_heads, n_tokens, head_size)
        Filler counts as tokens.
    attention_mask : None
        transformers makes no mask for an attention function that it has no mask builder for.
    packing : Packing
        Passed through the encoder as a keyword argument.
    sliding_window : int or None
        Tokens at this distance or further are not attended to.

    Returns
    -------
    tuple of Tensor of shape (1, n_tokens, n_heads, head_size) and None
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # (n_tokens, n_heads, head_size). Indexing with [0] would make its gradient a copy into zeros.
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    if q.device.type == "cpu":  # the CPU's fused kernel refuses dropout, and is slower with a mask
        return _cpu_attention(q, k, v, packing, scale, dropout, sliding_window).unsqueeze(0), None
    if has_kernel(q, packing.n_texts):
        bounds, longest = (packing.bounds, packing.bounds), (packing.max_length, packing.max_length)
        return flash_attention(q, k, v, bounds, longest, scale, dropout, sliding_window).unsqueeze(0), None
    # (n_tokens, n_heads, head_size) → (n_texts, n_heads, max_length, head_size)
    q, k, v = (packing.pad(x).transpose(1, 2) for x in (q, k, v))
    bias = packing.attention_bias(sliding_window, q.dtype)
    out = _padded_attention(q, k, v, bias, scale, dropout, packing.generator)
    return packing.unpad(out.transpose(1, 2)).unsqueeze(0), None


def first_token_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    n_heads: int,
    packing: Packing,
    dropout: float,
) -> torch.Tensor:
    """Attention of each text's first token to all of its tokens.

    Parameters
    ----------
    query : Tensor of shape (1, n_texts, n_heads * head_size)
        Filler may follow (on a CPU); its results are zero.
    key, value : Tensor of shape (1, n_tokens, n_heads * head_size)
    n_heads : int
    packing : Packing
    dropout : float
        Probability that a weight is dropped.

    Returns
    -------
    Tensor of the shape of `query`
    """
    q, k, v = (x.squeeze(0).unflatten(1, (n_heads, -1)) for x in (query, key, value))
    n_filler, q = len(q) - packing.n_texts, q[: packing.n_texts]
    scale = q.shape[-1] ** -0.5
    if q.device.type == "cpu":
        out = _cpu_attention(q, k, v, packing, scale, dropout, first=True)
        return fill(out.flatten(1), n_filler).unsqueeze(0)
    if has_kernel(q, packing.n_texts):
        each = torch.arange(packing.n_texts + 1, dtype=torch.int32, device=q.device)
        bounds, longest = (each, packing.bounds), (1, packing.max_length)
        return flash_attention(q, k, v, bounds, longest, scale, dropout).flatten(1).unsqueeze(0)
    k, v = (packing.pad(x).transpose(1, 2) for x in (k, v))  # (n_texts, n_heads, max_length, head_size)
    bias = packing.attention_bias(None, q.dtype)
    out = _padded_attention(q[:, :, None], k, v, bias, scale, dropout, packing.generator)
    return out.flatten(1).unsqueeze(0)


def _cpu_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packing: Packing,
    scale: float,
    dropout: float,
    window: int | None = None,
    first: bool = False,
) -> torch.Tensor:
    """Attention of packed texts on a CPU; with `first`, one query per text: that of its first token."""
    if _runs_are_enough(q, k, v, dropout):
        return run_attention(q, k, v, packing.lengths.numpy(), scale, window)
    layout = packing.layout(q.shape[1], q.dtype, window, first)
    return GroupedAttention.apply(q, k, v, layout, scale, dropout, packing.generator)


def _padded_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor,
    scale: float,
    p: float,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """Attention of texts side by side: (n_texts, n_heads, n_queries, head_size)."""
    if p == 0.0 or q.device.type == "cuda":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=p, scale=scale)
    # torch's dropout would draw from the device's generator, which only on CUDA belongs to the fit alone.
    weights = torch.softmax((q * scale) @ k.transpose(-2, -1) + bias, dim=-1)
    return dropout_of(weights, p, generator) @ v


def _runs_are_enough(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> bool:
    """Whether `run_attention` will do: no gradient, no dropout; in bfloat16 whole vectors are faster."""
    plain = dropout == 0.0 and q.dtype != torch.bfloat16
    return plain and not any(x.requires_grad for x in (q, k, v))
