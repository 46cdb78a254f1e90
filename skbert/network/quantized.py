"""Linear layers in 8-bit integers, for predictions on a CPU.

Vector-wise quantization (Dettmers et al., 2022, arXiv:2208.07339), symmetric, without calibration:

1. `quantize` replaces the linear layers of a module; each output's weights become integers from -127 to 127,
   and the largest of them is 127.
2. In a forward pass the same is done to each token's activations (`quantized_rows`). A scale of each token's
   own, and not one for all, leaves a text's result independent of the texts that it is batched with.
3. The product is one of integers, exact; it is multiplied by both scales, and the bias is added.

oneDNN's product of unsigned by signed bytes applies the weights' scales in one go, but without VNNI
instructions it may saturate. It is taken where this torch has it and it is exact at the extremes, else
torch's own product of signed bytes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

_LEVELS = 127
_TINY = 1e-30  # scale of a token that is all zeros, times 127
_ROWS = 256  # tokens quantized at a time, so that what is between the steps stays in the cache


class Int8Linear(nn.Module):
    """`torch.nn.Linear` with weights and inputs in 8 bits; for inference, on a CPU.

    Parameters
    ----------
    linear : nn.Linear
        Is left as it is.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        rows, scale = quantized_rows(linear.weight.detach().float())
        bias = linear.bias
        self.weight = rows  # (n_outputs, n_inputs) int8
        self.scale = scale.squeeze(1)  # (n_outputs,) float32
        self.bias = torch.zeros_like(self.scale) if bias is None else bias.detach().float()
        self.product = _FastProduct(rows, self.scale) if fast_product_is_exact() else self._product

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., n_inputs) → (..., n_outputs), float32."""
        rows, scale = quantized_rows(x.flatten(0, -2))
        y = self.product(rows)  # (n_tokens, n_outputs)
        torch.addcmul(self.bias, y, scale, out=y)
        return y.unflatten(0, x.shape[:-1])

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        return torch._int_mm(rows, self.weight.t()).float().mul_(self.scale)


class _FastProduct:
    """oneDNN's product of unsigned by signed bytes.

    Parameters
    ----------
    weight : Tensor of shape (n_outputs, n_inputs), int8
    scale : Tensor of shape (n_outputs,), float32
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        self.packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self.scale = scale
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(n_tokens, n_inputs) int8 → (n_tokens, n_outputs) float32; `rows` is overwritten."""
        unsigned = rows.view(torch.uint8).add_(128)
        weights = (self.packed, self.scale, self.zeros, None)
        output: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
        return torch.ops.onednn.qlinear_pointwise(unsigned, 1.0, 128, *weights, *output)


def quantized_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers from -127 to 127 and a scale for each row, whose product is nearest to `x`.

    Parameters
    ----------
    x : Tensor of shape (n_rows, width), float32

    Returns
    -------
    Tensor of shape (n_rows, width), int8, and Tensor of shape (n_rows, 1), float32
    """
    rows = torch.empty(x.shape, dtype=torch.int8)
    scales = torch.empty(len(x), 1, dtype=torch.float32)
    for block, target, scale in zip(x.split(_ROWS), rows.split(_ROWS), scales.split(_ROWS), strict=True):
        wide = block.abs()
        torch.amax(wide, dim=-1, keepdim=True, out=scale)
        scale.clamp_(min=_TINY).div_(_LEVELS)
        target.copy_(torch.mul(block, scale.reciprocal(), out=wide).round_())
    return rows, scales


def quantize(module: nn.Module) -> None:
    """Replace every linear layer in `module` by its quantized form."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, Int8Linear(child))


@cache
def fast_product_is_exact() -> bool:
    """Whether oneDNN's product is in this torch, and does not saturate on this processor."""
    weight = torch.full((16, 64), _LEVELS, dtype=torch.int8)
    weight[::2] = -_LEVELS
    rows = torch.full((16, 64), _LEVELS, dtype=torch.int8)
    expected = rows.float() @ weight.float().t()
    scale = torch.ones(16, dtype=torch.float32)
    try:
        return torch.equal(_FastProduct(weight, scale)(rows), expected)
    except (AttributeError, RuntimeError, TypeError):
        return False
