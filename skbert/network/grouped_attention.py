"""Attention on a CPU: texts of like length side by side, rows of scores in whole vectors.

One padded layout for a whole mini-batch costs its longest text's square for every text: on news texts four
times the scores that are needed, each with a mask bit to draw and an exponential. Here

1. the texts, longest first, are cut into groups that waste little (`make_layout`);
2. queries, keys and values are gathered into one array each, in which every group is a slice of
   (n_texts * n_heads, n_rows, head_size), and results are gathered back: two copies, whatever the groups;
3. keys are filled up to whole vectors, because kernels in bfloat16 work off the tail of a row element by
   element: softmax over 60 keys takes five times as long as over 64.

What fills the gaps are copies of real tokens. As keys they are masked; as queries nothing reads their result,
and their gradient is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from skbert.network.dropout import scaled_mask

_WASTE = 30_000  # scores that a group may waste before another group is cheaper
_VECTOR = 64  # bytes


@dataclass(frozen=True, slots=True)
class Group:
    """Texts of like length."""

    n_matrices: int  # texts times heads
    n_queries: int  # of the longest text
    n_keys: int  # the same, filled up to whole vectors
    bias: torch.Tensor | None  # (n_texts, 1, 1 or n_queries, n_keys), -inf where nothing may be looked at


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows (token, head) of a packed batch go, and where they are found again."""

    groups: list[Group]
    queries: torch.Tensor  # row of the batch at each row of the layout
    keys: torch.Tensor
    from_queries: torch.Tensor  # row of the layout at each row of the batch; filler: the one after the last
    from_keys: torch.Tensor
    filled: torch.Tensor  # rows of queries that are no token

    def slices(self, queries: tuple[torch.Tensor, ...], keys: tuple[torch.Tensor, ...]) -> Iterator[Any]:
        """The slices of arrays in this layout, group by group."""
        at_query = at_key = 0
        for group in self.groups:
            to_query = at_query + group.n_matrices * group.n_queries
            to_key = at_key + group.n_matrices * group.n_keys
            yield (
                *(x[at_query:to_query].view(group.n_matrices, group.n_queries, -1) for x in queries),
                *(x[at_key:to_key].view(group.n_matrices, group.n_keys, -1) for x in keys),
            )
            at_query, at_key = to_query, to_key


def make_layout(
    lengths: np.ndarray,
    n_heads: int,
    dtype: torch.dtype,
    window: int | None,
    first: bool = False,
    *,
    n_filler: int = 0,
) -> Layout:
    """Choose groups for texts of these lengths; tokens at a distance of `window` or more are masked.

    With `first` there is one query a text, its first token's; the queries' rows are those of (text, head).
    `n_filler` rows after the tokens belong to no text, and find zeros.
    """
    step = _VECTOR // dtype.itemsize
    starts = np.cumsum(lengths) - lengths
    groups, parts = [], []
    for texts in _groups(lengths, n_heads, step):
        longest = int(lengths[texts[0]])
        n_queries, n_keys = 1 if first else longest, -(-longest // step) * step
        at, n = (texts, np.ones_like(texts)) if first else (starts[texts], lengths[texts])
        parts.append(
            (_rows(at, n, n_queries, n_heads), _rows(starts[texts], lengths[texts], n_keys, n_heads))
        )
        bias = _bias(lengths[texts], n_queries, n_keys, window, dtype)
        groups.append(Group(len(texts) * n_heads, n_queries, n_keys, bias))
    n_rows = (int(lengths.sum()) + n_filler) * n_heads
    n_asking = len(lengths) * n_heads if first else n_rows
    (queries, are_queries), (keys, are_keys) = (
        (np.concatenate([side[0] for side in column]), np.concatenate([side[1] for side in column]))
        for column in zip(*parts, strict=True)
    )
    return Layout(
        groups,
        torch.from_numpy(queries),
        torch.from_numpy(keys),
        _inverse(queries, are_queries, n_asking),
        _inverse(keys, are_keys, n_rows),
        torch.from_numpy(np.flatnonzero(~are_queries)),
    )


def _groups(lengths: np.ndarray, n_heads: int, step: int) -> Iterator[np.ndarray]:
    """Cut the texts, longest first, where a group would waste too many scores."""
    order = np.argsort(-lengths, kind="stable")
    scores = n_heads * lengths[order] * (-(-lengths[order] // step) * step)
    start = waste = 0
    for i in range(1, len(order)):
        waste += int(scores[start] - scores[i])
        if waste > _WASTE:
            yield order[start:i]
            start, waste = i, 0
    yield order[start:]


def _rows(starts: np.ndarray, lengths: np.ndarray, n: int, n_heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the batch in the order (text, head, position), and which of them stand at a token."""
    positions = np.arange(n)
    real = positions < lengths[:, None]  # (n_texts, n)
    tokens = starts[:, None] + np.where(real, positions, 0)
    rows = tokens[:, None] * n_heads + np.arange(n_heads)[:, None]  # (n_texts, n_heads, n)
    return rows.reshape(-1), np.broadcast_to(real[:, None], rows.shape).reshape(-1)


def _inverse(rows: np.ndarray, real: np.ndarray, n_rows: int) -> torch.Tensor:
    inverse = np.full(n_rows, len(rows), dtype=np.int64)  # filler: the row of zeros after the others
    places = np.flatnonzero(real)
    inverse[rows[places]] = places
    return torch.from_numpy(inverse)


def _bias(
    lengths: np.ndarray, n_queries: int, n_keys: int, window: int | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """Zero where a query may look, -inf elsewhere; None if all may look everywhere.

    Every row has a zero, so that no softmax is taken over nothing.
    """
    columns = np.arange(n_keys)
    seen = (columns < lengths[:, None])[:, None]  # (n_texts, 1, n_keys)
    if window is not None and window < n_queries:
        distance = np.abs(np.arange(n_queries)[:, None] - columns)
        seen = (seen & (distance < window)) | (distance == 0)
    if seen.all():
        return None
    bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen), float("-inf"))
    return bias[:, None]


def _and_a_zero_row(like: torch.Tensor) -> torch.Tensor:
    """Rows as those of `like`, not set, and one of zeros."""
    rows = like.new_empty(len(like) + 1, like.shape[1])
    rows[-1] = 0.0
    return rows


class GroupedAttention(torch.autograd.Function):
    """Softmax attention with dropout on the weights, each text to itself.

    One function with a gradient of its own: dozens of small operations without a node each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: Layout,
        scale: float,
        dropout: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """(n_tokens, n_heads, head_size) each → the shape of the queries."""
        width = query.shape[-1]
        q = query.reshape(-1, width).index_select(0, layout.queries).mul_(scale)
        k, v = (x.reshape(-1, width).index_select(0, layout.keys) for x in (key, value))
        out = _and_a_zero_row(q)
        kept: list[torch.Tensor | None] = []
        for group, (q_g, out_g, k_g, v_g) in zip(layout.groups, layout.slices((q, out), (k, v)), strict=True):
            scores = torch.bmm(q_g, k_g.transpose(1, 2))
            if group.bias is not None:
                scores.view(len(group.bias), -1, group.n_queries, group.n_keys).add_(group.bias)
            weights = torch.softmax(scores, dim=-1)
            mask = scaled_mask(weights, dropout, generator) if dropout else None
            dropped = weights if mask is None else weights * mask
            torch.bmm(dropped, v_g, out=out_g)
            kept += [weights, dropped, mask]
        ctx.save_for_backward(q, k, v, *kept)
        ctx.layout, ctx.scale, ctx.shape = layout, scale, key.shape
        return out.index_select(0, layout.from_queries).view(query.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of query, key and value."""
        q, k, v, *kept = ctx.saved_tensors
        layout: Layout = ctx.layout
        g = gradient.reshape(-1, q.shape[-1]).index_select(0, layout.queries)
        g.index_fill_(0, layout.filled, 0.0)
        dq, dk, dv = (_and_a_zero_row(x) for x in (q, k, v))
        slices = layout.slices((q, g, dq), (k, v, dk, dv))
        for i, (q_g, g_g, dq_g, k_g, v_g, dk_g, dv_g) in enumerate(slices):
            weights, dropped, mask = kept[3 * i : 3 * i + 3]
            torch.bmm(dropped.transpose(1, 2), g_g, out=dv_g)
            d_weights = torch.bmm(g_g, v_g.transpose(1, 2))
            if mask is not None:
                d_weights.mul_(mask)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            torch.bmm(d_scores, k_g, out=dq_g)
            torch.bmm(d_scores.transpose(1, 2), q_g, out=dk_g)
        dq = dq.mul_(ctx.scale).index_select(0, layout.from_queries)
        dk, dv = (x.index_select(0, layout.from_keys) for x in (dk, dv))
        return dq.view(gradient.shape), dk.view(ctx.shape), dv.view(ctx.shape), None, None, None, None
