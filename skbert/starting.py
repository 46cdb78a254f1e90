"""What a fit starts from: a pretrained checkpoint with a new head, or a model fitted before.

1. `from_checkpoint` loads the checkpoint, once per process.
2. `init_head` initializes a new head.
3. `from_fitted` continues from a fitted model, whose head already has weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from skbert import inference
from skbert.data.inputs import factorize
from skbert.data.weights import combine
from skbert.exceptions import InputError
from skbert.frozen import row_keys
from skbert.network.model import SequenceClassifier, copy_module, reset_head
from skbert.pretrained import checkpoints
from skbert.pretrained.traits import max_positions
from skbert.ragged import offsets_of, ragged_arange
from skbert.randomness import Generators
from skbert.training import probing

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from skbert.data.encoding import Encodings
    from skbert.data.fit_data import TrainingData
    from skbert.frozen import FrozenLayers
    from skbert.training.optimizer import Moments


@dataclass(frozen=True, slots=True)
class Start:
    """A model to train, and what belongs to it."""

    # Returns a new model on the CPU at every call; its parameter is `shared`.
    new_model: Callable[..., SequenceClassifier]
    tokenizer: Tokenizer
    name: str  # of the checkpoint, for messages
    max_positions: int
    encoder: Any  # whose weights a new model has; never changed
    head_init: str | None = None  # how the head was initialized, if it was
    moments: Moments | None = None  # of an optimizer to continue with


def from_checkpoint(parameters: Mapping[str, Any], n_outputs: int) -> Start:
    """Start from the checkpoint that `model` and `revision` name."""
    checkpoint = checkpoints.load(parameters["model"], parameters["revision"])
    pooling = checkpoint.pooling if parameters["pooling"] == "auto" else parameters["pooling"]
    if pooling == "cls" and checkpoint.reads_forward:
        raise InputError(
            f"{checkpoint.name} reads from left to right: its first token sees nothing of a text, so "
            "pooling='cls' could learn nothing. Set pooling='mean', or use an encoder such as BERT, "
            "RoBERTa or ModernBERT."
        )

    def new_model(*, shared: bool = False) -> SequenceClassifier:
        return SequenceClassifier(
            checkpoint.new_encoder(shared=shared),
            checkpoint.architecture,
            pooling,
            n_outputs,
            checkpoint.head_dropout,
            checkpoint.rebuild(),
            head_layers=parameters["head_layers"],
        )

    return Start(
        new_model,
        checkpoints.new_tokenizer(checkpoint.tokenizer_json),
        checkpoint.name,
        checkpoint.max_positions,
        checkpoint.encoder,
    )


def from_fitted(
    model: SequenceClassifier, tokenizer: Tokenizer, name: str, head_init: str, moments: Moments | None
) -> Start:
    """Start from a fitted model, which is not changed."""
    positions = max_positions(model.encoder.config, model.architecture)
    new_model = partial(copy_module, model)
    return Start(new_model, tokenizer, name, positions, model.encoder, head_init, moments)


def init_head(
    model: SequenceClassifier,
    data: TrainingData,
    head_init: str,
    frozen: FrozenLayers,
    generators: Generators,
) -> str:
    """Initialize a new head; returns how: "linear_probe" or "random"."""
    reset_head(model, generators.weights)
    weights = combine(data.weights, data.class_weights, data.targets)
    probing.init_biases(model, data.targets, weights, data.class_weights)
    if head_init == "random":
        return "random"
    rows = probing.choose_rows(len(data), generators.probe)
    embeddings = frozen.vectors(model, data.encodings.take(rows), lambda: model)
    inference.release(model)
    seen = (embeddings, data.targets[rows], weights[rows])
    if head_init == "auto" and not _generalizes(model, data, rows, seen, generators):
        return "random"
    return "linear_probe" if probing.init_from_probe(model, *seen) else "random"


def _generalizes(
    model: SequenceClassifier,
    data: TrainingData,
    rows: np.ndarray,
    seen: tuple[np.ndarray, np.ndarray, np.ndarray],
    generators: Generators,
) -> bool:
    """Whether a probe on some rows generalizes; equal rows count once, with their summed weight."""
    embeddings, targets, weights = seen
    texts = _text_groups(data.encodings, rows)
    groups = texts if data.groups is None else data.groups[rows]
    keys, of_targets = row_keys(data.encodings.take(rows)), (target.tobytes() for target in targets)
    same = factorize(zip(groups.tolist(), keys, of_targets, strict=True))[1]
    firsts = np.unique(same, return_index=True)[1]
    summed = np.zeros((len(firsts), *weights.shape[1:]))
    np.add.at(summed, same, weights)
    some = (embeddings[firsts], targets[firsts], summed)
    n_outputs = model.head.out_features
    return probing.generalizes(*some, n_outputs, generators.probe, groups[firsts], texts[firsts])


def _text_groups(encodings: Encodings, rows: np.ndarray) -> np.ndarray:
    """For each row, the number of its text among the distinct ones; all windows of a text identify it."""
    owners, inverse = np.unique(encodings.owners[rows], return_inverse=True)
    begin, end = (np.searchsorted(encodings.owners, owners, side) for side in ("left", "right"))
    keys = row_keys(encodings.take(ragged_arange(begin, end - begin)))
    bounds = offsets_of(end - begin).tolist()
    of_owners = factorize(tuple(keys[a:b]) for a, b in pairwise(bounds))[1]
    return of_owners[inverse]
