"""From checked texts and labels to a fine-tuned model: the order of the stages of a fit.

1. Load the checkpoint, once per process.
2. Encode the texts; rows of weight zero are left out.
3. Put a new head on a copy of the encoder, and give it its first weights.
4. Train all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skbert import checkpoints, defaults, inference, probing
from skbert.callbacks import make_progress
from skbert.checkpoints import Checkpoint
from skbert.encoding import encode
from skbert.exceptions import InputError
from skbert.inputs import Texts
from skbert.labels import Labels
from skbert.model import SequenceClassifier, reset_head, set_dropout
from skbert.runtime import Generators, Runtime, isolated_generators, resolve_runtime
from skbert.training import TrainingData, TrainingSettings, train

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class FittedModel:
    """What a fit ends with."""

    model: SequenceClassifier  # on the CPU
    tokenizer: Tokenizer
    loss_curve: list[float]  # mean training loss of each epoch
    head_init: str  # "linear_probe" or "random"
    learning_rate: float
    truncated_fraction: float


def fit_texts(
    texts: Texts, labels: Labels, weights: np.ndarray, parameters: Mapping[str, Any], seed: int
) -> FittedModel:
    """Fine-tune a checkpoint on texts.

    Parameters
    ----------
    texts : Texts
    labels : Labels
    weights : ndarray of shape (n_samples,)
        Weight of each text.
    parameters : mapping
        The parameters of `BertClassifier`, validated.
    seed : int
        Of every random stream of the fit.

    Returns
    -------
    FittedModel
    """
    place = resolve_runtime(parameters["device"], parameters["precision"])
    checkpoint = checkpoints.load(parameters["model"], parameters["revision"])
    _check_max_length(parameters["max_length"], checkpoint)
    tokenizer = checkpoints.new_tokenizer(checkpoint.tokenizer_json)
    kept = np.flatnonzero(weights)  # rows of weight zero teach nothing
    encodings = encode(tokenizer, texts.take(kept), parameters["max_length"])
    data = TrainingData(encodings, labels.codes[kept], weights[kept])
    settings = resolve_settings(parameters, len(data), checkpoint.hidden_size)
    generators = Generators.from_seed(seed, place.device)
    with (
        isolated_generators(generators.seed, place.device),
        make_progress(parameters["verbose"], settings.epochs, len(data)) as progress,
    ):
        model = new_model(checkpoint, labels.n_outputs, parameters["pooling"])
        head_init = start_head(model, data, parameters["head_init"], place, generators)
        set_dropout(model, parameters["dropout"], generators.dropout)
        result = train(model, data, settings, place, generators, progress)
    return FittedModel(
        model=model,
        tokenizer=tokenizer,
        loss_curve=result.loss_curve,
        head_init=head_init,
        learning_rate=settings.learning_rate,
        truncated_fraction=float(encodings.truncated.mean()),
    )


def _check_max_length(max_length: int, checkpoint: Checkpoint) -> None:
    if max_length > checkpoint.max_positions:
        raise InputError(
            f"max_length={max_length}, but {checkpoint.name} has positions for "
            f"{checkpoint.max_positions} tokens. Set max_length={checkpoint.max_positions} or less."
        )


def resolve_settings(parameters: Mapping[str, Any], n_texts: int, hidden_size: int) -> TrainingSettings:
    """The recipe with every "auto" resolved."""
    epochs, rate = parameters["epochs"], parameters["learning_rate"]
    return TrainingSettings(
        epochs=defaults.auto_epochs(n_texts, parameters["batch_size"]) if epochs == "auto" else epochs,
        batch_size=parameters["batch_size"],
        learning_rate=defaults.auto_learning_rate(hidden_size) if rate == "auto" else rate,
        weight_decay=parameters["weight_decay"],
        warmup_ratio=parameters["warmup_ratio"],
        max_grad_norm=parameters["max_grad_norm"],
    )


def new_model(
    checkpoint: Checkpoint, n_outputs: int, pooling: Literal["auto", "cls", "mean"]
) -> SequenceClassifier:
    """A copy of the pretrained encoder with a head whose weights are not set yet."""
    return SequenceClassifier(
        checkpoint.new_encoder(),
        checkpoint.architecture,
        checkpoint.pooling if pooling == "auto" else pooling,
        n_outputs,
        checkpoint.head_dropout,
        checkpoint.rebuild(),
    )


def start_head(
    model: SequenceClassifier,
    data: TrainingData,
    head_init: str,
    place: Runtime,
    generators: Generators,
) -> str:
    """Give the head its first weights; returns how: "linear_probe" or "random"."""
    reset_head(model, generators.weights)
    if head_init == "random":
        return "random"
    rows = probing.choose_rows(len(data), generators.probe)
    embeddings = inference.run_model(model.eval(), data.encodings.take(rows), place, "embeddings")
    seen = (embeddings, data.targets[rows], data.weights[rows])
    if head_init == "auto" and not probing.generalizes(*seen, generators.probe):
        return "random"
    probing.start_head(model, *seen)
    return "linear_probe"
