"""The heads of transformers' classifiers: what each family has between its encoder and the logits.

All of them read one vector per text, and apply a linear layer, an activation, in one family a norm, and the
linear layer that gives the logits. In a `SequenceClassifier` the last of these is the head, and the others
are the pooler.

A model whose head is a single linear layer, logits W x + b, can be put into most of these heads as well:

1. Activations of the form a(z) = z s(z) with s(z) + s(-z) = 1, that is ReLU, GELU and their kin, give
   a(z) - a(-z) = z: the first layer computes W x and -W x, the last takes the difference and adds b.
2. tanh(z) is z up to rounding for tiny z: the first layer is the identity times 2**-30, the last W times
   2**30.
3. A norm cannot be undone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from skbert.network.head import blank_linear
from skbert.network.pooling import Pooling
from skbert.pretrained import checkpoints

_TINY = 2.0**-30  # a power of two: the scaling itself rounds nothing, in float32, float64 and bfloat16
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """Where a family's classifier keeps its layers, by the names of transformers."""

    dense: str
    output: str
    activation: str  # its name, or the entry of the config that names it
    norm: str | None = None

    def activation_of(self, config: Mapping[str, Any]) -> Any:
        """Name of the activation."""
        return self.activation if self.activation in _ACTIVATIONS else config.get(self.activation)


_OF_ROBERTA = HeadLayout("classifier.dense", "classifier.out_proj", "tanh")
_OF_DEBERTA = HeadLayout("pooler.dense", "classifier", "pooler_hidden_act")
LAYOUTS = {
    "bert": HeadLayout("bert.pooler.dense", "classifier", "tanh"),
    "camembert": _OF_ROBERTA,
    "deberta": _OF_DEBERTA,
    "deberta-v2": _OF_DEBERTA,
    "distilbert": HeadLayout("pre_classifier", "classifier", "relu"),
    "electra": HeadLayout("classifier.dense", "classifier.out_proj", "gelu"),
    "modernbert": HeadLayout("head.dense", "classifier", "classifier_activation", norm="head.norm"),
    "mpnet": _OF_ROBERTA,
    "roberta": _OF_ROBERTA,
    "xlm-roberta": _OF_ROBERTA,
}


class FamilyPooler(nn.Module):
    """The layers of a family's head before the one that gives the logits."""

    reads_any_vector = True  # of the first token, or the mean over all of them

    def __init__(self, dense: nn.Module, activation: str, norm: nn.Module | None) -> None:
        super().__init__()
        self.dense = dense
        self.activation = activation
        self.norm = norm

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(n_texts, n_tokens, hidden_size) → (n_texts, hidden_size), of the first token."""
        activated = _ACTIVATIONS[self.activation](self.dense(states[:, 0]))
        return activated if self.norm is None else self.norm(activated)


def pooling_of(config: Mapping[str, Any]) -> Pooling:
    """How a family's classifier pools: by the first token, unless it is ModernBERT."""
    return config.get("classifier_pooling", "cls") if config["model_type"] == "modernbert" else "cls"


def is_known(activation: Any) -> bool:
    """Whether a `FamilyPooler` can have this activation."""
    return isinstance(activation, str) and activation in _ACTIVATIONS


def build_encoder(config: dict[str, Any], packed: bool) -> Any:
    """As `checkpoints.build_encoder`, with a `FamilyPooler` of the config's sizes in it."""
    encoder = checkpoints.build_encoder(config, packed)
    layout = LAYOUTS[config["model_type"]]
    width = encoder.config.hidden_size
    dense = blank_linear(width, width, bias=config.get("classifier_bias", True))
    norm = None
    if layout.norm is not None:
        norm = nn.LayerNorm(width, eps=config["norm_eps"], bias=config["norm_bias"])
    activation = layout.activation_of(config)
    if not is_known(activation):
        raise ValueError(f"its head has the activation {activation!r:.80}")
    encoder.pooler = FamilyPooler(dense, activation, norm)
    return encoder


def head_of(
    weight: torch.Tensor, bias: torch.Tensor, activation: str
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None:
    """Weights and biases of two layers that, with `activation` between them, compute what one layer does.

    Parameters
    ----------
    weight : Tensor of shape (n_outputs, hidden_size)
    bias : Tensor of shape (n_outputs,)
    activation : str

    Returns
    -------
    tuple of two (weight, bias), or None
        None if the first layer, of shape (hidden_size, hidden_size), has too few rows.
    """
    n_outputs, width = weight.shape
    first = weight.new_zeros(width, width)
    last = torch.zeros_like(weight)
    if activation == "tanh":
        first.fill_diagonal_(_TINY)
        last.copy_(weight / _TINY)
    elif 2 * n_outputs > width:
        return None
    else:
        first[:n_outputs], first[n_outputs : 2 * n_outputs] = weight, -weight
        last[:, :n_outputs].fill_diagonal_(1.0)
        last[:, n_outputs : 2 * n_outputs].fill_diagonal_(-1.0)
    return (first, weight.new_zeros(width)), (last, bias.clone())
