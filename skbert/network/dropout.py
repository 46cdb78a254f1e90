"""Dropout that draws from a generator of its own.

torch's dropout can only draw from the process-wide generator, so two fits in one process disturb each
other and the user's own random numbers. On a CPU it also costs a draw per element. Here

1. each mask element is 16 random bits, four to a word; the probability is therefore rounded to a multiple of
   1/65536, and the scale is that of the rounded probability, so that the expectation is exact but for the
   rounding of the dtype;
2. the words are a stretch of one pool XOR a stretch of another, at offsets that the generator draws: every
   mask has fresh bits, any two masks are independent, and there are 10¹¹ of them, at two draws each.

On CUDA torch's own dropout is used, one kernel in each direction: attention draws from the device's generator
anyway, which a fit has to itself (`randomness.isolated_cuda`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_LEVELS = 1 << 16
_POOL = 1 << 19  # words; two pools of 4 MiB
_STRETCH = _POOL // 2  # the longest


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


def set_dropout(model: Any, p: float | None, generator: torch.Generator | None) -> None:
    """Make every dropout of the model draw from `generator`, with probability `p` (None: unchanged)."""
    model.generator = generator
    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, name, Dropout(child.p))
            elif isinstance(child, nn.Identity) and name.endswith("drop"):
                setattr(module, name, Dropout(0.0))  # ModernBERT omits a dropout of zero
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = module.p if p is None else p
            module.generator = generator
    if p is not None:  # Falcon reads it in the config, in its forward pass
        for holder in (*model.modules(), model.encoder.config):
            for name in _probabilities(holder):
                setattr(holder, name, p)


def _probabilities(holder: Any) -> list[str]:
    """Names of the dropout probabilities that a module stores itself, as ModernBERT's attention does."""
    return [
        name
        for name, value in vars(holder).items()
        if ("dropout" in name or "pdrop" in name) and type(value) in (int, float)
    ]


def dropout(x: torch.Tensor, p: float, generator: torch.Generator | None) -> torch.Tensor:
    """Zero elements of `x` with probability `p` and scale up the others."""
    if p == 0.0:
        return x
    if x.device.type == "cuda":
        return F.dropout(x, p)
    return x * scaled_mask(x, p, generator)


def scaled_mask(x: torch.Tensor, p: float, generator: torch.Generator | None) -> torch.Tensor:
    """A mask for `x`: zero with probability `p`, else the scale."""
    if x.device.type != "cpu" or generator is None:
        return torch.empty_like(x).bernoulli_(1.0 - p, generator=generator).div_(1.0 - p)
    bits = _random_words((x.numel() + 3) // 4, generator).view(torch.int16)
    threshold = min(round(p * _LEVELS), _LEVELS - 1)
    # Compared directly into the result's dtype: a bool mask and its conversion take nine times as long.
    mask = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(bits[: x.numel()].view(x.shape), threshold - _LEVELS // 2, out=mask)
    return mask.mul_(_LEVELS / (_LEVELS - threshold))


def _random_words(n: int, generator: torch.Generator) -> torch.Tensor:
    """Random bits, (n,) int64."""
    words = torch.empty(n, dtype=torch.int64)
    for part in words.split(_STRETCH):
        starts = torch.randint(_POOL - len(part) + 1, (2,), generator=generator).tolist()
        stretches = (pool[start : start + len(part)] for pool, start in zip(_pools(), starts, strict=True))
        torch.bitwise_xor(*stretches, out=part)
    return words


@cache
def _pools() -> tuple[torch.Tensor, ...]:
    # The full range of int64: without bounds the sign bit would always be zero.
    words = torch.empty(2, _POOL, dtype=torch.int64).random_(
        -(2**63), None, generator=torch.Generator().manual_seed(0)
    )
    return tuple(words)
