"""Where the layers of an encoder are, and what comes before them.

Model families of transformers name their parts as they like. They share the order: parts are created, and so
registered, in the order in which they run; the exceptions are listed below.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from skbert.exceptions import InputError

# Created beside the layers or after them, but read by the lowest one: MPNet and DeBERTa embed distances,
# which go into every layer, and DeBERTa may have a convolution. ALBERT projects its embeddings first.
_BESIDE = ("relative_attention_bias", "embedding_hidden_mapping_in")
_BESIDE_DISTANCES = ("rel_embeddings", "LayerNorm", "conv")
_OF_XLM = ("position_embeddings", "lang_embeddings", "layer_norm_emb")  # beside `embeddings`, a single table
_ABOVE = "final_layer_norm"  # of OPT, created before the layers and run after them


def encoder_layers(encoder: Any) -> nn.ModuleList:
    """The transformer layers of an encoder, lowest first.

    Raises
    ------
    InputError
        If there is no list of them.
    """
    layers = _list_of_layers(encoder)
    if layers is None:
        raise InputError(
            f"{type(encoder).__name__} has no list of its layers (ALBERT runs a single layer repeatedly; "
            "XLM keeps its layers in several lists), but a number of layers for freeze, freeze='gradual', "
            "layer_decay below 1 and gradient_checkpointing need it. Leave these at their defaults; freeze "
            "may be 'embeddings' or 'encoder'."
        )
    return layers


def _list_of_layers(encoder: Any) -> nn.ModuleList | None:
    for module in encoder.modules():
        lists = [
            child
            for child in module.children()
            if isinstance(child, nn.ModuleList) and len(child) == encoder.config.num_hidden_layers
        ]
        if lists:
            return lists[0] if len(lists) == 1 else None
    return None


def embedding_parts(encoder: Any) -> list[nn.Module]:
    """What comes before the layers: embeddings, their projections and norms, and what layers read besides."""
    layers = _list_of_layers(encoder)
    embeddings = getattr(encoder, "embeddings", None)
    parts = [encoder.get_input_embeddings() if embeddings is None else embeddings]
    parts += _named(encoder, _OF_XLM) if layers is None else _before(layers, encoder)
    beside = getattr(encoder, "encoder", None)
    parts += _named(beside, (*_BESIDE, *(_BESIDE_DISTANCES if hasattr(beside, "rel_embeddings") else ())))
    return list(dict.fromkeys(parts))


def _named(module: Any, names: tuple[str, ...]) -> list[nn.Module]:
    return [part for name in names if (part := getattr(module, name, None)) is not None]


def _before(layers: nn.ModuleList, module: nn.Module) -> Iterator[nn.Module]:
    for name, child in module.named_children():
        if child is layers:
            return
        if name == _ABOVE:
            continue
        if any(part is layers for part in child.modules()):
            yield from _before(layers, child)
            return
        yield child
