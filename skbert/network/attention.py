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
    return _attend(q, k, v, packing, scale, dropout, sliding_window).unsqueeze(0), None


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
    out = _attend(q, k, v, packing, q.shape[-1] ** -0.5, dropout, first=True)
    return fill(out.flatten(1), n_filler).unsqueeze(0)


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packing: Packing,
    scale: float,
    dropout: float,
    window: int | None = None,
    first: bool = False,
) -> torch.Tensor:
    """(n_tokens, n_heads, head_size) → the same; with `first`, `q` is that of each text's first token."""
    if q.device.type == "cpu":  # the CPU's fused kernel refuses dropout, and is slower with a mask
        if _runs_are_enough(q, k, v, dropout):
            return run_attention(q, k, v, packing.lengths.numpy(), scale, window)
        layout = packing.layout(q.shape[1], q.dtype, window, first)
        return GroupedAttention.apply(q, k, v, layout, scale, dropout, packing.generator)
    if has_kernel(q, packing.n_texts):
        bounds, longest = packing.bounds, packing.max_length
        asking, most = bounds, longest
        if first:
            asking, most = torch.arange(packing.n_texts + 1, dtype=torch.int32, device=q.device), 1
        return flash_attention(q, k, v, (asking, bounds), (most, longest), scale, dropout, window)
    # → (n_texts, n_heads, max_length, head_size)
    k, v = (packing.pad(x).transpose(1, 2) for x in (k, v))
    q = q[:, :, None] if first else packing.pad(q).transpose(1, 2)
    bias = packing.attention_bias(window, q.dtype)
    out = _padded_attention(q, k, v, bias, scale, dropout, packing.generator)
    return out.squeeze(2) if first else packing.unpad(out.transpose(1, 2))


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
