"""What trains: which weights require a gradient, and how deep each of them lies.

The loop and the optimizer read only `requires_grad` and `depths`; nothing here runs during training.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from skbert.exceptions import InputError
from skbert.model import SequenceClassifier


def freeze(model: SequenceClassifier, what: int | Literal["embeddings", "encoder"]) -> None:
    """Choose what trains.

    Parameters
    ----------
    model : SequenceClassifier
    what : int, "embeddings" or "encoder"
        0 trains everything; a number freezes the embeddings and that many of the lowest layers; "encoder"
        leaves only the head to train.

    Raises
    ------
    InputError
        If the encoder has fewer layers.
    """
    model.requires_grad_()
    layers = encoder_layers(model.encoder)
    if isinstance(what, int) and what > len(layers):
        raise InputError(
            f"freeze={what}, but the encoder has {len(layers)} layers. Use at most {len(layers)}, or "
            "freeze='encoder' to train the head alone."
        )
    if what == "encoder":
        model.encoder.requires_grad_(False)
        if model.pooler is not None:
            model.pooler.requires_grad_(False)
    elif what != 0:
        for part in embedding_parts(model.encoder):
            part.requires_grad_(False)
        for layer in layers[: what if isinstance(what, int) else 0]:
            layer.requires_grad_(False)


def encoder_layers(encoder: Any) -> nn.ModuleList:
    """The transformer layers of an encoder, lowest first."""
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == encoder.config.num_hidden_layers:
            return module
    raise InputError(f"{type(encoder).__name__} has no list of layers that freeze or layer_decay could use.")


def embedding_parts(encoder: Any) -> list[nn.Module]:
    """What comes before the layers: the embeddings, and ELECTRA's projection of them."""
    parts = (encoder.embeddings, getattr(encoder, "embeddings_project", None))
    return [part for part in parts if part is not None]


def depths(model: SequenceClassifier) -> dict[nn.Parameter, int]:
    """Distance of each weight from the head: 0 at head and pooler, 1 at the top layer, and so on down."""
    layers = encoder_layers(model.encoder)
    found = dict.fromkeys(model.parameters(), 0)
    for part in embedding_parts(model.encoder):
        found |= dict.fromkeys(part.parameters(), len(layers) + 1)
    for number, layer in enumerate(layers):
        found |= dict.fromkeys(layer.parameters(), len(layers) - number)
    return found
