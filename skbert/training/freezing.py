"""What trains: which weights require a gradient, and how deep each of them lies.

The loop and the optimizer read only `requires_grad` and `depths`.

1. `freeze` is decided before the first step, with or without adapters (`lora.py`).
2. `GradualUnfreezing` changes it between epochs.
"""

from __future__ import annotations

from numbers import Integral
from typing import Literal

from torch import nn

from skbert.exceptions import InputError
from skbert.network.layers import embedding_parts, encoder_layers
from skbert.network.model import SequenceClassifier
from skbert.training.callbacks import Watcher

Frozen = int | Literal["embeddings", "encoder", "gradual"]


def freeze(model: SequenceClassifier, what: Frozen) -> None:
    """Freeze a part of the model: its weights no longer require a gradient.

    Parameters
    ----------
    model : SequenceClassifier
    what : int, "embeddings", "encoder" or "gradual"
        0 freezes nothing; another number freezes the embeddings and that many of the lowest layers; "encoder"
        freezes all but the head. "gradual" freezes nothing here: see `GradualUnfreezing`.

    Raises
    ------
    InputError
        If the encoder has fewer layers.
    """
    if what in (0, "gradual"):
        return
    if what == "encoder":
        model.encoder.requires_grad_(False)
        if model.pooler is not None:
            model.pooler.requires_grad_(False)
        return
    for part in embedding_parts(model.encoder):
        part.requires_grad_(False)
    if isinstance(what, Integral):
        layers = encoder_layers(model.encoder)
        if what > len(layers):
            raise InputError(
                f"freeze={what}, but the encoder has {len(layers)} layers. Use at most {len(layers)}, or "
                "freeze='encoder' to train the head alone."
            )
        layers[: int(what)].requires_grad_(False)


class GradualUnfreezing(Watcher):
    """Trains the head alone in the first epoch, and everything in the last.

    The layers join from the top at equal intervals, the embeddings last (Howard and Ruder, 2018,
    arXiv:1801.06146).
    """

    def __init__(self, model: SequenceClassifier) -> None:
        self._model = model

    def fit_begin(self, epochs: int, n_texts: int) -> None:
        """Remember what trains in the end."""
        head = {*self._model.hidden.parameters(), *self._model.head.parameters()}
        # What lies between the top layer and the head (a pooler, a norm) thaws with that layer.
        thawing = {
            p: max(depth, 1) for p, depth in depths(self._model).items() if p.requires_grad and p not in head
        }
        numbers = range(1, len(encoder_layers(self._model.encoder)) + 2)
        self._groups = [[p for p, depth in thawing.items() if depth == number] for number in numbers]
        self._epochs = epochs

    def epoch_begin(self, epoch: int) -> None:
        """Thaw the share of the layers that is due in this epoch."""
        last = self._epochs - 1
        thawed = -(-epoch * len(self._groups) // last) if last else len(self._groups)
        for number, group in enumerate(self._groups):
            for parameter in group:
                parameter.requires_grad_(number < thawed)


def depths(model: SequenceClassifier) -> dict[nn.Parameter, int]:
    """Distance of each weight from the head: 0 at head and pooler, 1 at the top layer, and so on down."""
    layers = encoder_layers(model.encoder)
    found = dict.fromkeys(model.parameters(), 0)
    for part in embedding_parts(model.encoder):
        found |= dict.fromkeys(part.parameters(), len(layers) + 1)
    for number, layer in enumerate(layers):
        found |= dict.fromkeys(layer.parameters(), len(layers) - number)
    return found
