"""Layers between the encoder's states and the logits, besides those that come with checkpoints.

Hidden layers are residual, x + W₂ GELU(W₁ x), and W₂ starts at zero: a new head of any depth starts as its
linear layer alone, so that a linear probe can initialize it (`probing.py`), and learns to use its depth
(Zhang, Dauphin and Ma, 2019, arXiv:1901.09321).
"""

from __future__ import annotations

import torch
from torch import nn

from skbert.network.dropout import Dropout


def blank_linear(n_inputs: int, n_outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer with uninitialized weights; without memory where models are built without memory."""
    place = torch.get_default_device()
    return nn.utils.skip_init(nn.Linear, n_inputs, n_outputs, bias=bias, device=place, dtype=torch.float32)


class BarePooler(nn.Module):
    """The pooler of ALBERT and BigBird: a linear layer, whose activation the encoder keeps beside it."""

    def __init__(self, dense: nn.Linear, activation: nn.Module) -> None:
        super().__init__()
        self.dense = dense
        self.activation = activation

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(n_texts, n_tokens, size) → (n_texts, size), of the first token."""
        return self.activation(self.dense(states[:, 0]))


class HiddenLayer(nn.Module):
    """x + W₂ dropout(GELU(W₁ x)), of one width."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.inner = blank_linear(size, size)
        self.dropout = Dropout(dropout)
        self.outer = blank_linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n_texts, size) → (n_texts, size)."""
        return x + self.outer(self.dropout(nn.functional.gelu(self.inner(x))))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Initialize the layer as the identity."""
        self.inner.weight.normal_(0.0, 0.02, generator=generator)
        for zero in (self.inner.bias, self.outer.weight, self.outer.bias):
            zero.zero_()
