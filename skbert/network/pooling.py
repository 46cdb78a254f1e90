"""Pooling over the tokens of each text: their states become one vector."""

from __future__ import annotations

from typing import Literal

import torch

from skbert.network.packing import Packing

Pooling = Literal["cls", "mean", "max"]


def mean_of_texts(states: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Mean over the tokens of each text: (n_tokens, hidden_size) → (n_texts, hidden_size), float32 or wider.

    Summed in the padded layout, whose gaps are zero: plain operations on every backend, no atomic additions.
    """
    return packing.pad(states).sum(dim=1) / packing.lengths[:, None]


def maximum_of_texts(states: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Maximum over the tokens of each text: (n_tokens, hidden_size) → (n_texts, hidden_size)."""
    gaps = ~packing.mask[..., None]  # (n_texts, max_length, 1)
    return packing.pad(states).masked_fill(gaps, float("-inf")).amax(dim=1)


POOLS = {"mean": mean_of_texts, "max": maximum_of_texts}
"""Those over all tokens; "cls" takes the first."""
