"""Rows of zeros after those of a batch, where the number of rows matters to matrix products on a CPU.

1. It affects their speed: oneDNN creates a kernel for each size of a bfloat16 product, which takes several
   times as long as the product itself, and keeps the latest thousand. A packed batch has as many tokens as
   its texts have together, a number that hardly ever recurs. It is therefore padded to one of sixteen sizes
   per power of two, by a thirtieth on average.
2. It affects their last bits: kernels take four rows at a time, and may round the remaining ones differently
   (MKL does on processors with AVX2 but not AVX-512: in float64, and in float32 where there are fewer than
   four). Where nothing needs a gradient, rows are therefore padded to a multiple of four: a text's result
   does not depend on the texts beside it, and results do not depend on what a cache holds
   (tests/test_neighbours.py). A training step is compared with nothing, and does without.

Attention gives zeros for the filler, and its outputs are cut off, so that its gradients are zero. Everything
else works row by row, and is not affected.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_STEPS = 16  # sizes per power of two
_LEAST = 16  # rows of a tile
_AT_A_TIME = 4  # rows


def filler_size(n_rows: int, device: torch.device, dtype: torch.dtype) -> int:
    """Rows to add to a batch of `n_rows`, for products in `dtype`."""
    if device.type != "cpu":
        return 0
    if dtype == torch.bfloat16:
        return -n_rows % max(_LEAST, 2 ** (n_rows.bit_length() - 1) // _STEPS)
    return 0 if torch.is_grad_enabled() else -n_rows % _AT_A_TIME


def fill(values: torch.Tensor, n_filler: int) -> torch.Tensor:
    """(n_rows, ...) → (n_rows + n_filler, ...), zeros in the last rows."""
    if n_filler == 0:
        return values
    return torch.cat([values, values.new_zeros(n_filler, *values.shape[1:])])


def filled(rows: torch.Tensor) -> torch.Tensor:
    """Rows, one for each text, and the filler that they need.

    They need none in bfloat16: the number of texts recurs, being the size of a mini-batch.
    """
    if rows.dtype == torch.bfloat16:
        return rows
    return fill(rows, filler_size(len(rows), rows.device, rows.dtype))


def apply(function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """`function` of `rows`, one for each text."""
    return function(filled(rows))[: len(rows)]
