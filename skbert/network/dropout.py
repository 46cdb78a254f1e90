"""Dropout that draws from a generator of its own.

torch's dropout can only draw from the process-wide generator, so that two fits in one process disturb each
other and the user's own random numbers. On a CPU it also costs a draw per element. Here each mask element is
16 random bits, four to a draw; the probability is therefore rounded to a multiple of 1/65536, and the scale
is that of the rounded probability, so that the expectation is exact.
"""

from __future__ import annotations

import torch
from torch import nn

_LEVELS = 1 << 16


class Dropout(nn.Module):
    """`torch.nn.Dropout` with its own generator.

    Parameters
    ----------
    p : float
        Probability of an element to be zeroed.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop in training, pass through otherwise."""
        return dropout(x, self.p if self.training else 0.0, self.generator)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"p={self.p}"


def dropout(x: torch.Tensor, p: float, generator: torch.Generator | None) -> torch.Tensor:
    """Zero elements of `x` with probability `p` and scale up the others."""
    if p == 0.0:
        return x
    return x * scaled_mask(x, p, generator)


def scaled_mask(x: torch.Tensor, p: float, generator: torch.Generator | None) -> torch.Tensor:
    """A mask for `x`: zero with probability `p`, else the scale."""
    if x.device.type != "cpu" or generator is None:
        return torch.empty_like(x).bernoulli_(1.0 - p, generator=generator).div_(1.0 - p)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
    # The full range of int64: without bounds the sign bit would always be zero.
    draws.random_(-(2**63), None, generator=generator)
    threshold = min(round(p * _LEVELS), _LEVELS - 1)
    # Compared into the dtype of the result: a mask of bool and its conversion take nine times as long.
    mask = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(draws.view(torch.int16)[: x.numel()].view(x.shape), threshold - _LEVELS // 2, out=mask)
    return mask.mul_(_LEVELS / (_LEVELS - threshold))
