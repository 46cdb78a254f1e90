"""The last layer of an encoder for the first tokens only: "cls" pooling reads nothing else of it.

1. Keys and values are those of all tokens, as in any layer.
2. Queries, the attention's output and the feed-forward network are those of each text's first token.

The result equals that of the whole layer (tests/test_model.py, values and gradients of all families), for a
sixth of its products. `restrict_last_layer` gives the layer a class of its own, so that copies of the encoder
keep it and the names of the weights stay the same; `restore_last_layer` undoes this.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from skbert.network.attention import first_token_attention
from skbert.network.filler import filled
from skbert.network.packing import Packing


def restrict_last_layer(layers: nn.ModuleList) -> bool:
    """Make the last layer return the first tokens only, if its kind is known here; returns whether it is."""
    layer: Any = layers[-1] if len(layers) else None
    if hasattr(layer, "sa_layer_norm"):
        forward = _distilbert_layer
    elif isinstance(getattr(getattr(layer, "attention", None), "self", None), nn.Module):
        forward = _bert_layer
    else:
        return False
    kind = type(layer)
    layer.__class__ = type(f"FirstTokens{kind.__name__}", (kind,), {"forward": forward})
    return True


def restore_last_layer(layers: nn.ModuleList) -> None:
    """Make a restricted last layer return the states of all tokens again."""
    layer: Any = layers[-1]
    layer.__class__ = type(layer).__base__


def _bert_layer(layer: Any, states: torch.Tensor, *_: Any, packing: Packing, **__: Any) -> torch.Tensor:
    """BERT, RoBERTa, XLM-R, ELECTRA: (1, n_tokens, width) → (1, n_texts, width)."""
    own = layer.attention.self
    first = filled(packing.take_firsts(states.squeeze(0)))[None]  # (1, n_texts and filler, width)
    context = first_token_attention(
        own.query(first),
        own.key(states),
        own.value(states),
        own.num_attention_heads,
        packing,
        own.dropout.p if own.training else 0.0,
    )
    attended = layer.attention.output(context, first)
    return layer.output(layer.intermediate(attended), attended)[:, : packing.n_texts]


def _distilbert_layer(layer: Any, states: torch.Tensor, *_: Any, packing: Packing, **__: Any) -> torch.Tensor:
    own = layer.attention
    first = filled(packing.take_firsts(states.squeeze(0)))[None]
    context = first_token_attention(
        own.q_lin(first),
        own.k_lin(states),
        own.v_lin(states),
        own.n_heads,
        packing,
        own.dropout.p if own.training else 0.0,
    )
    attended = layer.sa_layer_norm(own.out_lin(context) + first)
    return layer.output_layer_norm(layer.ffn(attended) + attended)[:, : packing.n_texts]
