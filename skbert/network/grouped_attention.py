"""Attention on a CPU: texts of similar length side by side, rows of scores in whole vectors.

In one padded layout for a whole mini-batch, every text costs the square of the longest one's length: on news
texts four times the scores that are needed, each with a mask bit to draw and an exponential. Here

1. queries, keys and values are gathered into one array each, in which every group of texts is a slice
   (`attention_layout.py`), and results are gathered back: two copies, whatever the groups;
2. the rows of scores are whole vectors, because kernels in bfloat16 process the tail of a row element by
   element: softmax over 60 keys takes five times as long as over 64;
3. weights are kept for the gradient, up to a limit; the others are recomputed, block by block, so that memory
   grows with the length of the texts, not with its square (Rabe and Staats, 2021, arXiv:2112.05682).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from skbert.network.attention_layout import Layout
from skbert.network.dropout import scaled_mask


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    bias: torch.Tensor | None,
    dropout: float,
    generator: torch.Generator | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights, (n_matrices, n_queries, n_keys), and the mask that dropout multiplies them by."""
    scores = torch.bmm(q, k.transpose(1, 2))
    if bias is not None:
        scores.view(len(bias), -1, *scores.shape[1:]).add_(bias)
    weights = torch.softmax(scores, dim=-1)
    return weights, scaled_mask(weights, dropout, generator) if dropout else None


def _dropped(weights: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return weights if mask is None else weights * mask


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if total.dtype == left.dtype:
        total.baddbmm_(left, right)
    else:
        total += torch.bmm(left, right)


def _and_a_zero_row(like: torch.Tensor) -> torch.Tensor:
    """Uninitialized rows like those of `like`, and one row of zeros."""
    rows = like.new_empty(len(like) + 1, like.shape[1])
    rows[-1] = 0.0
    return rows


class GroupedAttention(torch.autograd.Function):
    """Softmax attention with dropout on the weights, each text to itself.

    One function with its own backward pass: dozens of small operations need no autograd node each.
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
        # Masks that were not drawn from the fit's generator cannot be drawn again.
        can_repeat = not dropout or generator is not None
        states: list[torch.Tensor] = []  # of the generator, before each block whose weights are recomputed
        kept: list[torch.Tensor | None] = []
        for group, (q_g, out_g, k_g, v_g) in zip(layout.groups, layout.slices((q, out), (k, v)), strict=True):
            for block in group.blocks():
                q_b, out_b = (x[block.matrices, block.queries] for x in (q_g, out_g))
                k_b, v_b = (x[block.matrices, block.keys] for x in (k_g, v_g))
                repeats = can_repeat and not group.is_whole
                if repeats and dropout and generator is not None:
                    states.append(generator.get_state())
                weights, mask = _attend(q_b, k_b, block.bias, dropout, generator)
                torch.bmm(_dropped(weights, mask), v_b, out=out_b)
                if any(ctx.needs_input_grad) and not repeats:
                    kept += [weights, mask]
        ctx.save_for_backward(q, k, v, *kept)
        ctx.layout, ctx.scale, ctx.dropout, ctx.shape = layout, scale, dropout, key.shape
        ctx.can_repeat, ctx.states = can_repeat, states
        return out.index_select(0, layout.from_queries).view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of query, key and value."""
        q, k, v, *kept = ctx.saved_tensors
        layout: Layout = ctx.layout
        g = gradient.reshape(-1, q.shape[-1]).index_select(0, layout.queries)
        g.index_fill_(0, layout.filled, 0.0)
        dq, dk, dv = (_and_a_zero_row(x) for x in (q, k, v))
        slices = layout.slices((q, g, dq), (k, v, dk, dv))
        wide = torch.promote_types(q.dtype, torch.float32)
        of_blocks, states = iter(zip(kept[::2], kept[1::2], strict=True)), iter(ctx.states)
        for group, (q_g, g_g, dq_g, k_g, v_g, dk_g, dv_g) in zip(layout.groups, slices, strict=True):
            # Sums over blocks are kept wide: in bfloat16 dozens of additions would lose the later terms.
            sums = None if group.is_whole else [torch.zeros_like(x, dtype=wide) for x in (k_g, v_g)]
            for block in group.blocks():
                q_b, g_b, dq_b = (x[block.matrices, block.queries] for x in (q_g, g_g, dq_g))
                k_b, v_b, dk_b, dv_b = (x[block.matrices, block.keys] for x in (k_g, v_g, dk_g, dv_g))
                if group.is_whole or not ctx.can_repeat:
                    weights, mask = next(of_blocks)
                else:
                    again = torch.Generator().set_state(next(states)) if ctx.dropout else None
                    weights, mask = _attend(q_b, k_b, block.bias, ctx.dropout, again)
                d_weights = torch.bmm(g_b, v_b.transpose(1, 2))
                if mask is not None:
                    d_weights.mul_(mask)
                d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                torch.bmm(d_scores, k_b, out=dq_b)
                dropped = _dropped(weights, mask)
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
