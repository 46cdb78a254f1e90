"""Attention on a CPU where nothing needs a gradient: runs of texts of equal length, as views.

Predictions take texts longest first, so that texts of equal length are neighbours in a batch.

1. `equal_runs` cuts the texts of a batch into such runs.
2. In a run, queries, keys and values are views of (n_texts, n_heads, length, head_size): no gap to mask, and
   no copy into another layout and back.
3. Short texts take the plain products, long ones torch's fused kernel, which never writes their scores out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

_LONG = 96  # tokens from which on the fused kernel is the faster one


def equal_runs(lengths: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield neighbours of equal length: (first text, texts, tokens of each)."""
    firsts = np.flatnonzero(np.diff(lengths, prepend=-1))
    counts = np.diff(firsts, append=len(lengths))
    for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
        yield first, count, int(lengths[first])


def run_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: np.ndarray, scale: float
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

    Returns
    -------
    Tensor of the shape of `query`
    """
    out = torch.empty(query.shape, dtype=query.dtype)
    token = 0
    for first, count, length in equal_runs(lengths):
        rows = slice(token, token + count * length)
        token = rows.stop
        n, asking = (length, rows) if len(query) == len(key) else (1, slice(first, first + count))
        # (n_texts, n_heads, tokens, head_size)
        q, target = (x[asking].unflatten(0, (count, n)).transpose(1, 2) for x in (query, out))
        k, v = (x[rows].unflatten(0, (count, length)).transpose(1, 2) for x in (key, value))
        if length >= _LONG:
            target.copy_(F.scaled_dot_product_attention(q, k, v, scale=scale))
        else:
            scores = torch.matmul(q * scale, k.transpose(2, 3))
            target.copy_(torch.matmul(torch.softmax(scores, dim=-1), v))
    return out
