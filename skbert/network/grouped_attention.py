"""Attention on a CPU: texts of like length side by side, rows of scores in whole vectors.

One padded layout for a whole mini-batch costs its longest text's square for every text: on news texts four
times the scores that are needed, each with a mask bit to draw and an exponential. Here

1. queries, keys and values are gathered into one array each, in which every group of texts is a slice
   (`attention_layout.py`), and results are gathered back: two copies, whatever the groups;
2. the rows of scores are whole vectors, because kernels in bfloat16 work off the tail of a row element by
   element: softmax over 60 keys takes five times as long as over 64;
3. weights are kept for the gradient, but for groups of very many: those are made again, block by block, and
   memory grows with the length of the texts, not with its square (Rabe and Staats, 2021, arXiv:2112.05682).
"""

from __future__ import annotations

from typing import Any

import torch

from skbert.network.attention_layout import Layout
from skbert.network.dropout import scaled_mask


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    bias: torch.Tensor | None,
    dropout: float,
    generator: torch.Generator | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Weights, (n_matrices, n_queries, n_keys); the same after dropout; what dropout multiplied them by."""
    scores = torch.bmm(q, k.transpose(1, 2))
    if bias is not None:
        scores.view(len(bias), -1, *scores.shape[1:]).add_(bias)
    weights = torch.softmax(scores, dim=-1)
    if not dropout:
        return weights, weights, None
    mask = scaled_mask(weights, dropout, generator)
    return weights, weights * mask, mask


def _state(generator: torch.Generator | None) -> torch.Tensor | None:
    return None if generator is None else generator.get_state()


def _as_it_was(state: torch.Tensor | None) -> torch.Generator | None:
    return None if state is None else torch.Generator().set_state(state)


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if total.dtype == left.dtype:
        total.baddbmm_(left, right)
    else:
        total += torch.bmm(left, right)


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
            for block in group.blocks():
                q_b, out_b = (x[block.matrices, block.queries] for x in (q_g, out_g))
                k_b, v_b = (x[block.matrices, block.keys] for x in (k_g, v_g))
                state = _state(generator) if group.whole is None and dropout else None
                weights, dropped, mask = _attend(q_b, k_b, block.bias, dropout, generator)
                torch.bmm(dropped, v_b, out=out_b)
                can_repeat = group.whole is None and (state is not None or not dropout)
                kept += [state, None, None] if can_repeat else [weights, dropped, mask]
        ctx.save_for_backward(q, k, v, *kept)
        ctx.layout, ctx.scale, ctx.dropout, ctx.shape = layout, scale, dropout, key.shape
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
        of_blocks = iter(zip(kept[::3], kept[1::3], kept[2::3], strict=True))
        for group, (q_g, g_g, dq_g, k_g, v_g, dk_g, dv_g) in zip(layout.groups, slices, strict=True):
            # What blocks add up is wide: in bfloat16 dozens of sums would lose what the later ones add.
            sums = (
                None if group.whole is not None else [torch.zeros_like(x, dtype=_wide(x)) for x in (k_g, v_g)]
            )
            # Blocks first: zip takes nothing more from the second when the first has ended.
            for block, (weights, dropped, mask) in zip(group.blocks(), of_blocks):  # noqa: B905
                q_b, g_b, dq_b = (x[block.matrices, block.queries] for x in (q_g, g_g, dq_g))
                k_b, v_b, dk_b, dv_b = (x[block.matrices, block.keys] for x in (k_g, v_g, dk_g, dv_g))
                if dropped is None:
                    weights, dropped, mask = _attend(q_b, k_b, block.bias, ctx.dropout, _as_it_was(weights))
                d_weights = torch.bmm(g_b, v_b.transpose(1, 2))
                if mask is not None:
                    d_weights.mul_(mask)
                d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                torch.bmm(d_scores, k_b, out=dq_b)
                if sums is None:
                    torch.bmm(d_scores.transpose(1, 2), q_b, out=dk_b)
                    torch.bmm(dropped.transpose(1, 2), g_b, out=dv_b)
                else:
                    dk_b, dv_b = (x[block.matrices, block.keys] for x in sums)
                    _add_product(dk_b, d_scores.transpose(1, 2), q_b)
                    _add_product(dv_b, dropped.transpose(1, 2), g_b)
            if sums is not None:
                dk_g.copy_(sums[0])
                dv_g.copy_(sums[1])
        dq = dq.mul_(ctx.scale).index_select(0, layout.from_queries)
        dk, dv = (x.index_select(0, layout.from_keys) for x in (dk, dv))
        return dq.view(gradient.shape), dk.view(ctx.shape), dv.view(ctx.shape), None, None, None, None
