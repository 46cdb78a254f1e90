"""Attention on a CPU where nothing needs a gradient: runs of texts of equal length, without gaps.

Predictions process texts longest first, so that texts of equal length are neighbours in a batch.

1. `ragged.runs` cuts the texts of a batch into such runs.
2. In a run, queries, keys and values are (n_texts, n_heads, length, head_size): no gap to mask.
3. Where there is a window, long texts are cut, so that no query is multiplied by many keys it cannot see.
4. Many queries use torch's fused kernel, which never stores their scores, few use plain matrix products.

A text's result must not depend on the texts beside it (`filler.py`), but products of other strides, or of
matrices that are not aligned, round differently. So the plain ones are of contiguous matrices, even in a run
of one text, where views would do; and the fused kernel is given no fewer queries than it takes at a time:
with fewer, its scratch memory has other sizes, and is aligned in its first thread only.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from skbert.network.attention_layout import bias_of, is_cut, parts
from skbert.ragged import runs

_BLOCK = 32  # queries that the fused kernel takes at a time, or a multiple


def run_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: np.ndarray,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Softmax attention of each text to itself.

    Parameters
    ----------
    query : Tensor of shape (n_tokens, n_heads, head_size), or (n_texts, n_heads, head_size)
        Of every token, or of one token of each text.
    key, value : Tensor of shape (n_tokens, n_heads, head_size)
    lengths : ndarray of shape (n_texts,), int64
    scale : float
        Factor of the scores.
    window : int, default=None
        Tokens at this distance or further are not attended to.

    Returns
    -------
    Tensor of the shape of `query`
    """
    out = torch.empty(query.shape, dtype=query.dtype)
    token = 0
    firsts, counts = runs(lengths)
    for first, count, length in zip(firsts.tolist(), counts.tolist(), lengths[firsts].tolist(), strict=True):
        rows = slice(token, token + count * length)
        token = rows.stop
        n, asking = (length, rows) if len(query) == len(key) else (1, slice(first, first + count))
        # (n_texts, n_heads, tokens, head_size)
        q, target = _heads(query[asking], count, n), _heads(out[asking], count, n)
        k, v = _heads(key[rows], count, length), _heads(value[rows], count, length)
        if window is None:  # a short text takes less time than the indexing below
            target.copy_(_attend(q, k, v, scale, None))
            continue
        whole = [(slice(0, n), slice(0, length))]
        for queries, keys in parts(n, length, 1, window) if is_cut(n, window) else whole:
            bias = bias_of(lengths[first : first + 1], queries, keys, window, query.dtype)
            found = _attend(q[:, :, queries], k[:, :, keys], v[:, :, keys], scale, bias)
            target[:, :, queries].copy_(found)
    if asking.stop < len(out):
        out[asking.stop :] = 0.0  # filler
    return out


def _heads(rows: torch.Tensor, n_texts: int, length: int) -> torch.Tensor:
    """(n_texts * length, n_heads, head_size) → (n_texts, n_heads, length, head_size)."""
    return rows.view(n_texts, length, *rows.shape[1:]).transpose(1, 2)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, bias: torch.Tensor | None
) -> torch.Tensor:
    if q.shape[2] >= _BLOCK:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    q, k, v = (q * scale).contiguous(), k.contiguous(), v.contiguous()
    scores = torch.matmul(q, k.transpose(2, 3))
    if bias is not None:
        scores += bias
    return torch.matmul(torch.softmax(scores, dim=-1), v)
