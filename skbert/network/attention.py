"""Attention over texts that are packed end to end, each text seeing only itself.

The linear layers of an encoder work on Σ lengths tokens. On a CUDA GPU one kernel attends to them as they lie
(`flash_attention.py`). Elsewhere texts are laid out side by side, but only here, around the product of
queries and keys: on a CPU in groups of like length (`grouped_attention.py`), on other devices all together:

1. `Packing.pad`: (n_tokens, ...) → (n_texts, max_length, ...), zeros in the gaps.
2. Softmax attention with a mask over the gaps (and, in ModernBERT's local layers, over far tokens).
3. `Packing.unpad`: back to (n_tokens, ...).

So only this product, a small part of the work at the lengths of most texts, sees gaps, and the result equals
transformers' own padded run (tests/test_model.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from skbert.forks import lazy
from skbert.network.attention_layout import Layout, make_layout
from skbert.network.dropout import dropout as dropout_of
from skbert.network.filler import fill
from skbert.network.flash_attention import flash_attention, has_kernel
from skbert.network.grouped_attention import GroupedAttention
from skbert.network.run_attention import run_attention


class Packing:
    """Where the tokens of a packed batch stand in the padded layout.

    Parameters
    ----------
    lengths : Tensor of shape (n_texts,), int64
    positions : Tensor of shape (n_tokens,), int64
        Position of each token in its text, from 0.
    max_length : int
    generator : torch.Generator or None
        Source of the attention's dropout masks.
    """

    def __init__(
        self,
        lengths: torch.Tensor,
        positions: torch.Tensor,
        max_length: int,
        generator: torch.Generator | None = None,
    ) -> None:
        self.lengths = lengths
        self.positions = positions
        self.n_texts = len(lengths)
        self.max_length = max_length
        self.generator = generator
        self.n_filler = 0  # rows after the tokens that belong to no text (`filler.py`)
        self._biases: dict[tuple[int | None, torch.dtype], torch.Tensor] = {}
        self._layouts: dict[tuple[int, torch.dtype, int | None, bool], Layout] = {}

    # What not every device and pooling needs is made when it is asked for first.

    @lazy
    def bounds(self) -> torch.Tensor:
        """Where each text begins, and last the number of tokens: (n_texts + 1,), int32."""
        return F.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)

    @lazy
    def firsts(self) -> torch.Tensor:
        """Where each text begins, (n_texts,) int64."""
        return self.lengths.cumsum(0) - self.lengths

    @lazy
    def slots(self) -> torch.Tensor:
        """Place of each token in the flat padded layout, (n_tokens,) int64."""
        numbers = torch.arange(self.n_texts, device=self.lengths.device)
        texts = torch.repeat_interleave(numbers, self.lengths, output_size=len(self.positions))
        return texts * self.max_length + self.positions

    @lazy
    def mask(self) -> torch.Tensor:
        """True on tokens, False in the gaps: (n_texts, max_length)."""
        columns = torch.arange(self.max_length, device=self.lengths.device)
        return columns < self.lengths[:, None]

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """(n_tokens, ...) → (n_texts, max_length, ...)."""
        padded = _Pad.apply(packed, self.slots, self.n_texts * self.max_length)
        return padded.view(self.n_texts, self.max_length, *packed.shape[1:])

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """(n_texts, max_length, ...) → (n_tokens, ...)."""
        return _Unpad.apply(padded.flatten(0, 1), self.slots)

    def attention_bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Zero where a query may look at a key, else -inf; (n_texts, 1, 1 or max_length, max_length).

        Every query row sees at least one key, so that no softmax is taken over nothing.
        """
        if (window, dtype) not in self._biases:
            mask = self.mask[:, None, None, :]
            if window is not None and window < self.max_length:
                columns = torch.arange(self.max_length, device=mask.device)
                near = (columns[:, None] - columns[None, :]).abs() < window
                mask = (mask & near) | torch.eye(self.max_length, dtype=torch.bool, device=mask.device)
            bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            self._biases[window, dtype] = bias.masked_fill_(~mask, float("-inf"))
        return self._biases[window, dtype]

    def layout(self, n_heads: int, dtype: torch.dtype, window: int | None, first: bool = False) -> Layout:
        """The groups for `GroupedAttention`; made once a batch."""
        key = (n_heads, dtype, window, first)
        if key not in self._layouts:
            self._layouts[key] = make_layout(self.lengths.numpy(), *key, n_filler=self.n_filler)
        return self._layouts[key]


class _Pad(torch.autograd.Function):
    # The slots are unique, so both directions are plain copies: no atomic additions, the same bits each time.
    @staticmethod
    def forward(ctx: Any, packed: torch.Tensor, slots: torch.Tensor, size: int) -> torch.Tensor:
        ctx.save_for_backward(slots)
        return packed.new_zeros(size, *packed.shape[1:]).index_copy_(0, slots, packed)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slots)
        ctx.size = len(padded)
        return padded.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        padded = gradient.new_zeros(ctx.size, *gradient.shape[1:])
        return padded.index_copy_(0, ctx.saved_tensors[0], gradient), None


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
        Handed through the encoder as a keyword.
    sliding_window : int or None
        Tokens at this distance or further are not attended to.

    Returns
    -------
    tuple of Tensor of shape (1, n_tokens, n_heads, head_size) and None
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # (n_tokens, n_heads, head_size). Indexing with [0] would make its gradient a copy into zeros.
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    if q.device.type == "cpu":  # its fused kernel refuses dropout, and is slower on what is masked
        if _runs_are_enough(q, k, v, dropout):
            return run_attention(q, k, v, packing.lengths.numpy(), scale, sliding_window).unsqueeze(0), None
        layout = packing.layout(q.shape[1], q.dtype, sliding_window)
        out = GroupedAttention.apply(q, k, v, layout, scale, dropout, packing.generator)
        return out.unsqueeze(0), None
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
        Filler may follow (on a CPU), and gives zeros.
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
        if _runs_are_enough(q, k, v, dropout):
            out = run_attention(q, k, v, packing.lengths.numpy(), scale)
        else:
            layout = packing.layout(n_heads, q.dtype, None, first=True)
            out = GroupedAttention.apply(q, k, v, layout, scale, dropout, packing.generator)
        return fill(out.flatten(1), n_filler).unsqueeze(0)
    if has_kernel(q, packing.n_texts):
        each = torch.arange(packing.n_texts + 1, dtype=torch.int32, device=q.device)
        bounds, longest = (each, packing.bounds), (1, packing.max_length)
        return flash_attention(q, k, v, bounds, longest, scale, dropout).flatten(1).unsqueeze(0)
    k, v = (packing.pad(x).transpose(1, 2) for x in (k, v))  # (n_texts, n_heads, max_length, head_size)
    bias = packing.attention_bias(None, q.dtype)
    out = _padded_attention(q[:, :, None], k, v, bias, scale, dropout, packing.generator)
    return out.flatten(1).unsqueeze(0)


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
    # torch's own would draw from the device's generator, which only on CUDA is the fit's alone.
    weights = torch.softmax((q * scale) @ k.transpose(-2, -1) + bias, dim=-1)
    return dropout_of(weights, p, generator) @ v


def _runs_are_enough(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> bool:
    """Whether texts can be attended to without gradient and dropout; in bfloat16 whole vectors win."""
    plain = dropout == 0.0 and q.dtype != torch.bfloat16
    return plain and not any(x.requires_grad for x in (q, k, v))
