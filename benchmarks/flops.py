"""How far the arithmetic is from its limit: useful operations, and the rate of matrix products.

1. `useful_flops` counts what real tokens need: two operations for each weight of a linear layer and token,
   and four for each pair of tokens, layer and width in the attention; three times that for a training step
   (forward, gradient of the inputs, gradient of the weights). Padding, embeddings, norms and the optimizer
   count nothing.
2. `matrix_rate` times the products of one encoder layer with as many tokens as a batch has; `square_rate`
   times one large square product. Both in the run that is being judged, in its precision.

Useful MFU is the first a second over the second.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MIN_SECONDS = 0.1  # of each timed product
SQUARE = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Shape:
    """What of an encoder the counts depend on."""

    n_layers: int
    hidden_size: int
    products: tuple[tuple[int, int], ...]  # (outputs, inputs) of every linear layer of one encoder layer

    @property
    def weights(self) -> int:
        """Weights of all linear layers of the encoder that see every token."""
        return self.n_layers * sum(n_out * n_in for n_out, n_in in self.products)


def shape_of(checkpoint: Path) -> Shape:
    """Read the shape off a checkpoint's config; no weights are loaded."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(checkpoint)
    with torch.device("meta"):
        encoder: Any = transformers.AutoModel.from_config(config)
    linear = [m for m in encoder.encoder.layer[0].modules() if isinstance(m, nn.Linear)]
    products = tuple((m.out_features, m.in_features) for m in linear)
    return Shape(config.num_hidden_layers, config.hidden_size, products)


def useful_flops(shape: Shape, lengths: np.ndarray, *, training: bool) -> float:
    """Operations that texts of these lengths (in tokens) need.

    Parameters
    ----------
    shape : Shape
    lengths : ndarray of int
    training : bool
        Forward and backward, or forward only.

    Returns
    -------
    float
    """
    lengths = lengths.astype(np.float64)
    linear = 2.0 * shape.weights * lengths.sum()
    attention = 4.0 * shape.n_layers * shape.hidden_size * (lengths**2).sum()
    return float((3 if training else 1) * (linear + attention))


def matrix_rate(shape: Shape, n_tokens: int, dtype: torch.dtype, device: str) -> float:
    """Operations a second of one encoder layer's products, `n_tokens` rows, in `dtype`."""
    operations, seconds = 0.0, 0.0
    for (n_out, n_in), number in Counter(shape.products).items():
        x = torch.randn(n_tokens, n_in, device=device).to(dtype)
        weight = torch.randn(n_out, n_in, device=device).to(dtype)
        operations += number * 2.0 * n_tokens * n_out * n_in
        seconds += number * _seconds_a_call(lambda x=x, weight=weight: F.linear(x, weight), device)
    return operations / seconds


def square_rate(dtype: torch.dtype, device: str) -> float:
    """Operations a second of one large square product in `dtype`."""
    size = SQUARE[device]
    x = torch.randn(size, size, device=device).to(dtype)
    return 2.0 * size**3 / _seconds_a_call(lambda: x @ x, device)


@torch.inference_mode()
def _seconds_a_call(function: Callable[[], Any], device: str) -> float:
    for _ in range(3):
        function()
    calls = 1
    while True:
        synchronize(device)
        started = time.perf_counter()
        for _ in range(calls):
            function()
        synchronize(device)
        seconds = time.perf_counter() - started
        if seconds > MIN_SECONDS:
            return seconds / calls
        calls = max(2 * calls, int(calls * 1.2 * MIN_SECONDS / seconds))


def synchronize(device: str) -> None:
    """Wait for what a GPU still has to do."""
    if device == "cuda":
        torch.cuda.synchronize()
