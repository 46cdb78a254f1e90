"""Where the tokens of a packed batch are, end to end and side by side: pad, unpad, masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from skbert.network.attention_layout import Layout, make_layout
from skbert.process.forks import lazy


@dataclass(eq=False)
class Packing:
    """Where the tokens of a packed batch are in the padded layout."""

    lengths: torch.Tensor  # (n_texts,) int64
    positions: torch.Tensor  # (n_tokens,) int64: of each token in its text, from 0
    max_length: int
    generator: torch.Generator | None = None  # source of the attention's dropout masks
    n_filler: int = 0  # rows after the tokens that belong to no text (`filler.py`)

    def __post_init__(self) -> None:
        self._biases: dict[tuple[int | None, torch.dtype], torch.Tensor] = {}
        self._layouts: dict[tuple[int, torch.dtype, int | None, bool], Layout] = {}

    @property
    def n_texts(self) -> int:
        """Number of texts in the batch."""
        return len(self.lengths)

    # Not every device and pooling needs these: each is made when it is first used.

    @lazy
    def bounds(self) -> torch.Tensor:
        """Where each text begins, followed by the number of tokens: (n_texts + 1,), int32."""
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

    def take_firsts(self, packed: torch.Tensor) -> torch.Tensor:
        """(n_tokens, ...) → (n_texts, ...): of each text's first token."""
        return _Unpad.apply(packed, self.firsts)

    def attention_bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Zero where a query may attend to a key, else -inf; (n_texts, 1, 1 or max_length, max_length).

        Every query sees at least one key, so that softmax never gets an empty row.
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

    def layout(self, n_heads: int, dtype: torch.dtype, window: int | None, first: bool) -> Layout:
        """The groups for `GroupedAttention`; made once per batch."""
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
