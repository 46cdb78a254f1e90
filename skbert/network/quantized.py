"""Linear layers in 8-bit integers, for predictions on a CPU.

Vector-wise quantization (Dettmers et al., 2022, arXiv:2208.07339), symmetric, without calibration:

1. `quantize` replaces the linear layers of a module; each output's weights become integers from -127 to 127,
   and the largest of them is 127.
2. In a forward pass the same is done to each token's activations (`quantized_rows`). Each token has its own
   scale, rather than one for all, so that a text's result is independent of the texts that it is batched
   with. Layers that read the same states, as queries, keys and values do, quantize them once (`LastInput`).
3. The product of the integers is exact; it is multiplied by both scales, and the bias is added.

oneDNN's product of unsigned by signed bytes applies the weights' scales in the same call, but without VNNI
instructions it may saturate. It is used where this torch has it and it is exact at the extremes; elsewhere a
product in float32, which is exact as well. The integers are the same on every machine; only the time differs.
"""

from __future__ import annotations

import threading
import weakref
from functools import cache
from typing import Any

import torch
from torch import nn

from skbert.exceptions import InputError

_LEVELS = 127
_TINY = 1e-30  # scale of a token that is all zeros, times 127
_BLOCK = 1 << 17  # numbers quantized at a time, so that intermediate results stay in the cache
_UNSIGNED = 128  # turns signed bytes into unsigned ones
_EXACT = (1 << 24) // _LEVELS**2  # number of products of two such integers whose sum is exact in float32
# Between 2**23 and 2**24 a float32 has no digits after the point: adding 1.5 * 2**23 rounds, and leaves the
# integer in the lowest bits.
_ROUNDS = 1.5 * 2**23


class LastInput(threading.local):
    """The integers of the input that each thread quantized last, while that input lives."""

    def __init__(self) -> None:
        self.rows: dict[weakref.ref[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = {}  # of one input

    def quantized(self, x: torch.Tensor, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`quantized_rows` of the tokens in `x`, which must not have been changed since the last call."""
        for last, rows in self.rows.items():
            if last() is x:
                return rows
        self.rows.clear()
        rows = quantized_rows(x.flatten(0, -2), offset)
        # The callback is a C function: in a Python one Ctrl-C might be handled, and lost.
        self.rows[weakref.ref(x, self.rows.pop)] = rows
        return rows


class Int8Linear(nn.Module):
    """`torch.nn.Linear` with weights and inputs in 8 bits; for inference, on a CPU.

    Parameters
    ----------
    linear : nn.Linear
        Not changed.
    last_input : LastInput
        Shared by this layer and those that may read the same input.
    """

    def __init__(self, linear: nn.Linear, last_input: LastInput) -> None:
        super().__init__()
        rows, scale = quantized_rows(linear.weight.detach().float())
        bias = linear.bias
        self.scale = scale.squeeze(1)  # (n_outputs,) float32
        self.bias = torch.zeros_like(self.scale) if bias is None else bias.detach().float()
        self.product = product_of_this_machine()(rows, self.scale)
        self.last_input = last_input

    @property
    def weight(self) -> torch.Tensor:
        """Not there any more; some families' own code reads it."""
        raise InputError(
            "precision='int8', but the code of this encoder's family in transformers reads the weights of "
            "its linear layers itself, so they cannot be integers. Set precision='float32'."
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., n_inputs) → (..., n_outputs), float32."""
        rows, scale = self.last_input.quantized(x, self.product.offset)
        y = self.product(rows)  # (n_tokens, n_outputs)
        torch.addcmul(self.bias, y, scale, out=y)
        return y.unflatten(0, x.shape[:-1])


class FloatProduct:
    """A product of integers in float32.

    Parameters
    ----------
    weight : Tensor of shape (n_outputs, n_inputs), int8
    scale : Tensor of shape (n_outputs,), float32
    """

    offset = 0  # of the integers it reads

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        self.weights = [part.float().t() for part in weight.split(_EXACT, dim=1)]
        self.scale = scale

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(n_tokens, n_inputs) int8 → (n_tokens, n_outputs) float32."""
        parts = zip(rows.split(_EXACT, dim=1), self.weights, strict=True)
        first, *others = (part.float() @ weight for part, weight in parts)
        if others:  # their sum may need more digits than float32 has
            first = sum((other.int() for other in others), first.int()).float()
        return first.mul_(self.scale)


class UnsignedProduct:
    """oneDNN's product of unsigned by signed bytes; its parameters are those of `FloatProduct`."""

    offset = _UNSIGNED

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        self.packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self.scale = scale
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(n_tokens, n_inputs) int8 → (n_tokens, n_outputs) float32; the bytes are read as unsigned."""
        unsigned = rows.view(torch.uint8)
        weights = (self.packed, self.scale, self.zeros, None)
        output: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
        return torch.ops.onednn.qlinear_pointwise(unsigned, 1.0, self.offset, *weights, *output)


def quantized_rows(x: torch.Tensor, offset: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers from -127 to 127 and a scale for each row, whose product is nearest to `x`.

    Parameters
    ----------
    x : Tensor of shape (n_rows, width), float32
    offset : int, default=0
        Added to the integers, modulo 256: with 128 their bytes are those of unsigned integers.

    Returns
    -------
    Tensor of shape (n_rows, width), int8, and Tensor of shape (n_rows, 1), float32
    """
    width = x.shape[1]
    n_rows = max(1, _BLOCK // width)
    rows = torch.empty(x.shape, dtype=torch.int8)
    scales = torch.empty(len(x), 1, dtype=torch.float32)
    between = torch.empty(min(n_rows, len(x)), width, dtype=torch.float32)
    rounds = torch.full((1, width), _ROUNDS + offset, dtype=torch.float32)
    for block, target, scale in zip(x.split(n_rows), rows.split(n_rows), scales.split(n_rows), strict=True):
        wide = between[: len(block)]
        torch.amax(torch.abs(block, out=wide), dim=-1, keepdim=True, out=scale)
        scale.clamp_(min=_TINY).div_(_LEVELS)
        torch.addcmul(rounds, block, scale.reciprocal(), out=wide)
        target.copy_(wide.view(torch.int32))
    return rows, scales


def quantize(module: nn.Module) -> None:
    """Replace every linear layer in `module` by its quantized form."""
    last_input = LastInput()
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, Int8Linear(child, last_input))


@cache
def product_of_this_machine() -> type[FloatProduct | UnsignedProduct]:
    """The fastest product that is exact with this torch on this processor."""
    return UnsignedProduct if is_exact(UnsignedProduct) else FloatProduct


def is_exact(product: type[FloatProduct | UnsignedProduct]) -> bool:
    """Whether this torch has a product, and it does not saturate on this processor."""
    weight = torch.full((16, 64), _LEVELS, dtype=torch.int8)
    weight[::2] = -_LEVELS
    rows = torch.full((16, 64), _LEVELS, dtype=torch.int8)
    scale = torch.ones(16, dtype=torch.float32)
    try:
        found = product(weight, scale)(rows.bitwise_xor(-_UNSIGNED) if product.offset else rows)
        return torch.equal(found, rows.float() @ weight.float().t())
    except (AttributeError, RuntimeError, TypeError):
        return False
