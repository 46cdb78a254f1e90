"""Batches of sizes that recur, where a size that is new costs time.

On a CPU, oneDNN makes a kernel for each size of a bfloat16 product, which takes several times as long as the
product itself, and keeps the latest thousand. A packed batch has as many tokens as its texts have together: a
number that hardly ever recurs. So

1. such a batch is filled up to one of sixteen sizes per power of two, by a thirtieth on average;
2. attention gives zeros for the filler, and what comes out for it is cut off, so that its gradients are zero;
3. everything else works row by row, and does not notice.
"""

from __future__ import annotations

import torch

_STEPS = 16  # sizes per power of two
_LEAST = 16  # rows of a tile


def filler_size(n_tokens: int, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens to be added to a batch of `n_tokens`, for products in `dtype`."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return 0
    step = max(_LEAST, 2 ** (n_tokens.bit_length() - 1) // _STEPS)
    return -n_tokens % step


def fill(values: torch.Tensor, n_filler: int) -> torch.Tensor:
    """(n_tokens, ...) → (n_tokens + n_filler, ...), zeros in the last rows."""
    if n_filler == 0:
        return values
    return torch.cat([values, values.new_zeros(n_filler, *values.shape[1:])])
