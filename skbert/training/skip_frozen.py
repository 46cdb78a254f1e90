"""Start a training above the layers that do not train.

1. With `freeze="encoder"` it starts from pooled vectors: an epoch is a loop over the head. With a number of
   layers it starts from the states above them.
2. Both come from the cache, or are computed once, before the first epoch (`frozen.py`).
3. The frozen modules stay in the model, so that weights, names and depths stay as they were; only their
   `forward` passes its input on unchanged.

Frozen parts have no dropout and never change, so the result equals that of computing them in every step,
up to rounding (tests/test_skip_frozen.py), and the random streams are the same.

A training starts there if the outputs of all training and validation texts together fit into the cache's
limit and, for states, the family runs packed. `freeze="embeddings"` is left as it is: looking up states costs
as much as looking up embeddings.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from numbers import Integral
from typing import TYPE_CHECKING, Any

from skbert.caching.store import STORE
from skbert.data.encoding import Encodings
from skbert.frozen import FrozenLayers, hand_on
from skbert.network.layers import embedding_parts, encoder_layers
from skbert.network.model import SequenceClassifier

if TYPE_CHECKING:
    from peft import LoraConfig

    from skbert.data.fit_data import TrainingData
    from skbert.starting import Start


def start_above(
    model: SequenceClassifier,
    what: Any,
    lora: LoraConfig | None,
    data: TrainingData,
    frozen: FrozenLayers,
    start: Start,
) -> TrainingData:
    """Make the model start above its frozen part, if this module's conditions hold.

    Parameters
    ----------
    model : SequenceClassifier
        About to be trained; it is changed in place.
    what : int or str
        The parameter `freeze`.
    lora : LoraConfig or None
        Adapters that the model has.
    data : TrainingData
    frozen : FrozenLayers
    start : Start
        What the model was made from.

    Returns
    -------
    TrainingData
        With the outputs of the frozen part for each row; as given, if the model starts at tokens.
    """
    if not _is_worth(model, what, lora, data.all_encodings, frozen):
        return data
    plain = cache(partial(start.new_model, shared=True))  # made only if something must be computed
    if what == "encoder":
        model.starts_at = "vectors"
        # Of each text (1, hidden_size).
        above = data.reencoded(lambda e: replace(e, frozen=tuple(frozen.vectors(model, e, plain)[:, None])))
    else:
        model.starts_at = "states"
        n_layers, layers = int(what), encoder_layers(model.encoder)
        above = data.reencoded(lambda e: replace(e, frozen=tuple(frozen.states(model, e, n_layers, plain))))
        if n_layers == len(layers):
            model.give_all_tokens()  # no layer is left to pick out the first tokens
        for part in (*embedding_parts(model.encoder), *layers[:n_layers]):
            part.forward = hand_on
    return above


def _is_worth(
    model: SequenceClassifier,
    what: Any,
    lora: LoraConfig | None,
    seen: list[Encodings],
    frozen: FrozenLayers,
) -> bool:
    if what == "encoder":
        n_vectors, dtype = sum(len(e) for e in seen), frozen.runtime.master_dtype
    elif isinstance(what, Integral) and int(what) > 0 and model.architecture.packed:
        if lora is not None and lora.init_lora_weights is not True:
            return False  # adapters in the frozen layers that add something from the start
        n_vectors, dtype = sum(len(e.ids) for e in seen), frozen.runtime.dtype
    else:
        return False
    return n_vectors * model.hidden_size * dtype.itemsize <= STORE.limit
